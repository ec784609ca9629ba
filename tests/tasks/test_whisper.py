"""Whisper is read, taught and asked as it was taught: what is given, how words are written, and stock `generate`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from keeltune.data.dataset import Row
from keeltune.models.whisper import as_written
from tests.helpers import whispers
from tests.helpers.speakers import TEXTS, row_of, save_sound


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
    import soundfile

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
    assert [line[: len(opening)] for line in ours] == [opening] * len(rows)
    assert [[i for i in line[len(opening) :] if i not in ends] for line in ours] == written
    assert len(set(map(tuple, written))) > 2
    texts = [p.value for p in task.predict(model, examples)]
    assert texts == [task.tokenizer.decode(line, skip_special_tokens=True).strip() for line in written]


def test_a_base_that_must_not_end_at_once_still_must_not_after_texts_that_end(rows, tmp_path: Path):
    """Each text ends in its end mark; that is no reason to allow it as the first token."""
    model, task = whispers.speaker()
    task.adopt(model, task.processor, [e for row in rows for e in task.encode(row)])
    assert task.tokenizer.eos_token_id in model.generation_config.begin_suppress_tokens
