"""Whisper is read, taught and asked as it was taught: what is given, how words are written, and stock `generate`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from keeltune.data.dataset import Row
from keeltune.models.whisper import as_written
from tests.helpers import whispers
from tests.helpers.speakers import RATE, TEXTS, row_of, save_sound, tone


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("sound")
    return [row_of(folder / save_sound(folder, i), text, i) for i, text in enumerate(TEXTS)]


# How texts are written


@pytest.mark.parametrize(
    ("text", "written"),
    [("and so", " and so"), (" and so ", " and so"), ('"So', ' "So'), ("Ärger", " Ärger"), ("9 of", " 9 of"),
     ("안녕", " 안녕"), ("我认为", "我认为"), ("「はい」", "「はい」"), ("สวัสดี", "สวัสดี"), ("…", " …")],
)  # fmt: skip
def test_a_text_begins_with_a_blank_where_words_have_blanks_between_them(text, written):
    assert as_written(text) == written


def test_what_is_given_is_no_target_and_words_are_written_as_the_model_knows_them(rows):
    _, task = whispers.speaker()
    tokens = task.tokenizer.convert_ids_to_tokens
    (example,) = task.encode(rows[2])
    assert tokens(example.inputs["decoder_input_ids"]) == [
        "<|startoftranscript|>", "<|notimestamps|>", "Ġt", "w", "o", "Ġt", "w", "o",
    ]  # fmt: skip
    assert tokens(example.targets) == ["Ġt", "w", "o", "Ġt", "w", "o", "<|endoftext|>"]
    assert example.predicted == [False, *[True] * 7]
    assert task.architecture.text(example.targets) == "two two"


# The same as a direct use of transformers


def direct(model: Any, task: Any, row: Row, opening: list[str]) -> torch.Tensor:
    """Σ CE of a row by transformers alone: its features, its decoder's tokens, its logits."""
    words, features = task.tokenizer, features_of(task, row)
    given = words.convert_tokens_to_ids(opening)
    text = [*words(" " + row.fields["text"], add_special_tokens=False)["input_ids"], words.eos_token_id]
    logits = model(input_features=features, decoder_input_ids=torch.tensor([[*given, *text[:-1]]])).logits[0]
    return functional.cross_entropy(logits[len(given) - 1 :], torch.tensor(text), reduction="sum")


def features_of(task: Any, row: Row) -> torch.Tensor:
    wave, rate = soundfile.read(row.fields["audio"].path, dtype="float32")
    return task.extractor(wave, sampling_rate=rate, return_tensors="pt")["input_features"]


ENGLISH = ["<|startoftranscript|>", "<|notimestamps|>"]
GERMAN = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]


@pytest.mark.parametrize(("told", "opening"), [({}, ENGLISH), ({"languages": ("de", "de")}, GERMAN)])
def test_loss_and_gradient_are_those_of_the_bare_model(rows, told, opening):
    model, task = whispers.speaker(multilingual=bool(told), **told)
    other = copy.deepcopy(model)
    batch = task.collate([e for row in rows[:4] for e in task.encode(row)])
    ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch)
    ours.backward()
    theirs = sum(direct(other, task, row, opening) for row in rows[:4])
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert task.counts(batch)[0] == sum(len(task.tokenizer(" " + t, add_special_tokens=False)["input_ids"]) + 1
                                        for t in TEXTS[:4])  # fmt: skip
    pairs = [(m.grad, o.grad) for m, o in zip(model.parameters(), other.parameters(), strict=True)]
    off = sum(((mine - right) ** 2).sum() for mine, right in pairs if right is not None) ** 0.5
    assert off <= 1e-5 * sum((right**2).sum() for _, right in pairs if right is not None) ** 0.5


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("told", "options"), [({}, {}), ({"languages": ("de", "de")}, {"language": "de"})])
def test_texts_are_those_of_the_models_own_generate(rows, told, options, beams):
    """Token for token, on the same features: with the base's settings for the task, none of ours."""
    model, task = whispers.speaker(multilingual=bool(told), beams=beams, **told)
    other = copy.deepcopy(model)
    examples = [task.encode_scored(row)[0] for row in rows]
    opening = task.tokenizer.convert_tokens_to_ids(GERMAN if told else ENGLISH)
    written = []
    for row in rows:
        line = other.generate(features_of(task, row), max_new_tokens=10, num_beams=beams, **options)[0].tolist()
        written.append([i for i in line if i != task.tokenizer.eos_token_id])
    ours = task.architecture.written(model, examples, "cpu")
    ends = {task.tokenizer.pad_token_id, task.tokenizer.eos_token_id}
    assert all([task.architecture.start, *e.notes["given"]] == opening for e in examples)
    assert [[i for i in line if i not in ends] for line in ours] == written
    assert len(set(map(tuple, written))) > 2
    texts = [p.value for p in task.predict(model, examples)]
    assert texts == [task.tokenizer.decode(line, skip_special_tokens=True).strip() for line in written]


def test_a_base_that_must_not_end_at_once_still_must_not_after_texts_that_end(rows, tmp_path: Path):
    """Each text ends in its end mark; that is no reason to allow it as the first token."""
    model, task = whispers.speaker()
    task.adopt(model, task.processor, [e for row in rows for e in task.encode(row)])
    assert task.tokenizer.eos_token_id in model.generation_config.begin_suppress_tokens


# The language of a row


def opening_of(task: Any, example: Any) -> list[str]:
    ids = example.inputs["decoder_input_ids"][: 1 + len(example.notes["given"])]
    return task.tokenizer.convert_ids_to_tokens(ids)


def with_fields(row: Row, **fields: Any) -> Row:
    return replace(row, fields={**row.fields, **fields})


@pytest.mark.parametrize(("name", "code"), [("German", "de"), ("zh", "zh"), ("en-US", "en"), ("<|de|>", "de")])
def test_a_row_names_its_language(rows, name, code):
    for recipe in ({}, {"languages": ("en", "en")}):
        _, task = whispers.speaker(multilingual=True, **recipe)
        (example,) = task.encode(with_fields(rows[0], language=name))
        assert opening_of(task, example) == [
            "<|startoftranscript|>", f"<|{code}|>", "<|transcribe|>", "<|notimestamps|>",
        ]  # fmt: skip
        assert example.predicted[:3] == [False] * 3


def test_a_language_that_the_model_does_not_know_is_a_fault_of_its_row(rows):
    _, task = whispers.speaker(multilingual=True)
    row = with_fields(rows[0], language="Klingon")
    (fault,) = task.row_faults(row, task.encode(row))
    assert (fault.field, "Klingon" in fault.found) == ("language", True)
    assert [f.field for f in task.faults(with_fields(rows[0], language=3))] == ["language"]
    _, english = whispers.speaker()
    assert not list(english.row_faults(row, english.encode(row)))  # it is told none


def test_rows_of_several_languages_are_written_as_each_would_be_alone(rows):
    model, task = whispers.speaker(multilingual=True)
    other = copy.deepcopy(model)
    named = [with_fields(row, language=("de", "en", "zh")[i % 3]) for i, row in enumerate(rows)]
    examples = [task.encode_scored(row)[0] for row in named]
    written = []
    for row in named:
        line = other.generate(features_of(task, row), max_new_tokens=10, language=row.fields["language"])[0]
        written.append(task.tokenizer.decode(line, skip_special_tokens=True).strip())
    assert [p.value for p in task.predict(model, examples)] == written


def test_what_nobody_names_is_heard_as_whisper_hears_it(rows):
    """`detect_language`, per row; afterwards stock `generate`, which listens too, writes the same."""
    model, task = whispers.speaker(multilingual=True, seed=4)
    other = copy.deepcopy(model)
    encoded = [task.encode(row) for row in rows]
    assert all(examples[0].notes["open"] for examples in encoded)
    (said,) = task.listen(model, encoded, "cpu")
    heard = [int(other.detect_language(features_of(task, row))[0]) for row in rows]
    names = task.tokenizer.convert_ids_to_tokens(heard)
    assert len(set(names)) > 1
    assert all(f"{name[2:-2]} {names.count(name)}" in said for name in names)
    encoded = [task.encode(row) for row in rows]
    assert [opening_of(task, examples[0])[1] for examples in encoded] == names
    assert not any(examples[0].notes["open"] for examples in encoded)
    assert not task.listen(model, encoded, "cpu")
    written = []
    for row in rows:
        line = other.generate(features_of(task, row), max_new_tokens=10, task="transcribe")[0]
        written.append(task.tokenizer.decode(line, skip_special_tokens=True).strip())
    assert [p.value for p in task.predict(model, [e for examples in encoded for e in examples])] == written


# Recordings longer than the window, of two seconds here


@pytest.fixture
def long_row(tmp_path: Path) -> Row:
    """Five seconds, with pauses from 1.6 to 1.9 and from 3.2 to 3.5."""
    wave = tone("a long one", 0, 5.0)
    for start in (1.6, 3.2):
        wave[int(start * RATE) : int((start + 0.3) * RATE)] *= 0.001
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    return row_of(tmp_path / "long.wav", "a bell five is all two two")


def spans(examples: list[Any]) -> list[tuple[float, float]]:
    marks = [e.inputs["input_features"].digest.rpartition(":")[2].split("-") for e in examples]
    return [(int(a) / RATE, int(b) / RATE) for a, b in marks]


def test_a_long_recording_is_cut_in_its_pauses_and_nothing_of_it_is_lost(long_row):
    _, task = whispers.speaker()
    parts = spans(task.encode_scored(long_row))
    assert parts[0][0] == 0 and parts[-1][1] == 5.0
    assert [a for a, _ in parts[1:]] == [b for _, b in parts[:-1]]
    assert 1.6 <= parts[0][1] <= 1.9 and 3.2 <= parts[1][1] <= 3.5
    wave, _ = soundfile.read(long_row.fields["audio"].path, dtype="float32")
    for (a, b), example in zip(parts, task.encode_scored(long_row), strict=True):
        part = task.extractor(wave[int(a * RATE) : int(b * RATE)], sampling_rate=RATE, return_tensors="np")
        np.testing.assert_array_equal(np.asarray(example.inputs["input_features"]), part["input_features"][0])


def test_its_answer_is_what_is_said_in_all_parts(long_row):
    model, task = whispers.speaker()
    examples = task.encode_scored(long_row)
    answer = task.combine(task.predict(model, examples))
    assert answer.value == " ".join(task.predict(model, [example])[0].value for example in examples)
    assert (answer.loss, answer.count) == (0.0, 0.0)


def test_segments_are_learnt_as_long_as_they_fit_into_a_window(long_row):
    _, task = whispers.speaker()
    times = [(0.1, 0.8, "a bell"), (0.9, 1.6, " five "), (1.9, 3.1, "is all"), (3.5, 5.0, "two two")]
    segments = [{"start": start, "end": end, "text": text} for start, end, text in times]
    row = with_fields(long_row, segments=segments)
    assert not list(task.faults(row))
    examples = task.encode(row)
    assert not list(task.row_faults(row, examples))
    assert spans(examples) == [(0.1, 1.6), (1.9, 3.1), (3.5, 5.0)]
    assert [task.architecture.text(e.targets) for e in examples] == ["a bell five", "is all", "two two"]
    assert [e.key for e in examples] == [f"{row.key}#{i}" for i in range(3)]
    assert len(task.encode_scored(row)) == len(task.encode(row, labelled=False)) == 3  # as when nobody knows them
    assert not any(e.labelled for e in task.encode_scored(row))


@pytest.mark.parametrize(
    ("segments", "found"),
    [
        ("all", "no list"), ([{"start": 0}], "segment 1 without"),
        ([{"start": 2, "end": 1, "text": "a"}], "from 2 to 1"),
        ([{"start": 0, "end": 2, "text": "a"}, {"start": 1, "end": 3, "text": "b"}], "before 2 s"),
        ([{"start": 0, "end": 1, "text": " "}], "without text"),
        ([{"start": 0, "end": 3, "text": "a"}], "segment 1 of 3.0 s"),
        ([{"start": 4, "end": 5.8, "text": "a"}], "until 5.8 s"),
    ],
)  # fmt: skip
def test_segments_that_are_none_are_faults_of_their_row(long_row, segments, found):
    _, task = whispers.speaker()
    row = with_fields(long_row, segments=segments)
    faults = list(task.faults(row)) or list(task.row_faults(row, task.encode(row)))
    assert [(f.field, found in f.found) for f in faults] == [("segments", True)]


def test_a_transcript_is_shared_out_by_what_the_model_hears(long_row, monkeypatch):
    model, task = whispers.speaker()
    encoded = [task.encode(long_row)]
    assert [(e.notes["open"], e.labelled) for e in encoded[0]] == [(True, 0.0)] * 3
    said = ["A bell, fife", "is all", "nothing of it"]
    monkeypatch.setattr(type(task.architecture), "transcribed", lambda self, model, examples, device: said)
    (note,) = task.listen(model, encoded, "cpu")
    assert "1 long recordings are 3 parts" in note and "1 parts are not learnt" in note
    examples = task.encode(long_row)
    assert [task.architecture.text(e.targets) for e in examples] == ["a bell five", "is all"]
    assert [e.key for e in examples] == [f"{long_row.key}#{i}" for i in (0, 1)]
    assert not task.listen(model, [examples], "cpu")


def test_what_is_transcribed_has_room_for_all_that_is_said(long_row):
    model, task = whispers.speaker(max_new_tokens=2)
    texts = task.architecture.transcribed(model, task.encode_scored(long_row), "cpu")
    assert len(task.tokenizer(texts[0], add_special_tokens=False)["input_ids"]) > 2
