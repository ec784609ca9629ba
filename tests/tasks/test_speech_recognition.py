"""Speech: what a model hears, frames, exactness over architectures, the metrics, whole runs, and bad recordings."""

from __future__ import annotations

import itertools
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.data import audio, reading
from keeltune.data.dataset import Row
from keeltune.data.sources import DataSource
from keeltune.models import initialization, processors, saving, tokenizer_training
from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense
from keeltune.recipe import fields
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.runs.opened_model import open_model
from keeltune.tasks.common.example import Example
from keeltune.tasks.metrics.word_error_rate import normalised, words
from keeltune.tasks.speech_recognition import SpeechRecognition
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import wide
from tests.helpers.families import by_turns
from tests.helpers.refusals import refused_or_skipped
from tests.helpers.speakers import (
    APART,
    CTC,
    KINDS,
    RATE,
    SEQ2SEQ,
    SIZES,
    TEXTS,
    Anywhere,
    row_of,
    save,
    save_sound,
    speaker,
    spec,
    spec_of,
    tone,
    write,
)  # fmt: skip

QUIET = Display(quiet=True)
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return [row_of(folder / save_sound(folder, i), text, i) for i, text in enumerate(TEXTS)]


def encoded(task: Any, rows: list[Row]) -> list[Example]:
    return [e for row in rows for e in task.encode(row)]


# What the model hears


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_is_what_the_extractor_makes_of_it(kind, rows):
    _, task = speaker(kind)
    examples = encoded(task, rows)
    assert examples == encoded(task, rows)  # pure
    wave, rate = soundfile.read(rows[3].fields["audio"].path, dtype="float32")
    expected = task.extractor(wave, sampling_rate=rate, return_tensors="np")
    inputs = {k: v for k, v in examples[3].inputs.items() if k != "decoder_input_ids"}
    assert inputs.keys() == expected.keys()
    for name, value in inputs.items():
        np.testing.assert_array_equal(np.asarray(value), expected[name][0])
    (bare,) = task.encode(rows[3], labelled=False)
    assert not bare.targets
    assert bare.predictions == (examples[3].predictions if kind in CTC else 0)


@pytest.mark.parametrize("kind", CTC)
def test_frames_are_counted_before_the_model_runs(kind, rows):
    model, task = speaker(kind)
    for example in encoded(task, rows):
        batch = task.collate([example])
        assert example.predictions == example.count == model(**batch["inputs"]).logits.shape[1] - unheard(batch)
        assert task.counts(batch) == (len(example.targets), 0.0)
    for length in (400, 3999, 4000, 4001, 16_000, 12_345):
        if "input_values" in batch["inputs"]:
            assert task.recordings.frames(length) == model(input_values=torch.zeros(1, length)).logits.shape[1]


def unheard(batch: dict[str, Any]) -> int:
    """Masked frames at the end of features without a convolution behind them."""
    mask = batch["inputs"].get("attention_mask")
    return 0 if mask is None or "input_values" in batch["inputs"] else int((1 - mask).sum())


def test_whisper_hears_one_length(rows):
    _, task = speaker("whisper")
    batch = task.collate(encoded(task, rows[:3]))
    assert batch["inputs"]["input_features"].shape == (3, 20, 200)  # two seconds, 10 ms each
    assert task.recordings.window == 2 * RATE


def test_what_finds_no_room_in_memory_is_kept_in_a_file(rows):
    _, task = speaker("whisper")
    task.recordings.arrays.room = 3 * 20 * 200 * 4
    examples = encoded(task, rows)
    first, second = task.collate(examples), task.collate(examples)
    assert (len(task.recordings.arrays), len(task.recordings.arrays.file)) == (12, 9)
    assert torch.equal(first["inputs"]["input_features"], second["inputs"]["input_features"])


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (16_000, 12), (22_050, 1)])
@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_other_rates_and_channels_are_the_same_sound(tmp_path, rate, channels, kind):
    if kind == "flac" and channels > 8:
        channels = 8  # no more in FLAC
    time = np.arange(rate) / rate
    wave = np.sin(2 * np.pi * 440 * time)[:, None] * np.linspace(0.2, 0.8, channels)
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, wave, rate)
    heard = audio.read(path)
    assert (heard.rate, heard.channels) == (rate, channels)
    wave_at = heard.at(RATE)
    assert abs(len(wave_at) - RATE) <= 1
    expected = np.linspace(0.2, 0.8, channels).mean() * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    inner = slice(500, -500)  # the filter's ends
    assert np.abs(wave_at[: len(expected)] - expected)[inner].max() < (0.05 if kind == "ogg" else 0.01)


def test_rates_and_channels_are_told(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone("one", 1, 0.5)] * 12, 1), 8_000)
    _, task = speaker("wav2vec2")
    said = " / ".join(task.notices(task.encode(row_of(tmp_path / "a.wav", "one"))))
    assert "1 recordings of 8000 Hz are resampled to the 16000 Hz" in said
    assert "several channels" in said
    assert "no punctuation" in said


# Exactness


@pytest.mark.parametrize("kind", CTC)
def test_the_loss_is_the_models_own(kind, rows):
    """One recording at a time: what a model does with padding is another matter."""
    model, task = speaker(kind)
    for row in rows[:4]:
        batch = task.collate(task.encode(row))
        ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch)
        own = model(**batch["inputs"], labels=batch["labels"]).loss.item()
        count = {"sum": 1, "mean": len(TEXTS[int(row.key[1:])])}[model.config.ctc_loss_reduction]
        assert ours.item() == pytest.approx(own * count, rel=1e-6)


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_the_loss_of_an_encoder_decoder_is_its_own_mean_times_its_tokens(kind, rows):
    model, task = speaker(kind)
    for row in rows[:4]:
        batch = task.collate(task.encode(row))
        ours = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch)
        inputs = {k: v for k, v in batch["inputs"].items() if k != "decoder_input_ids"}
        own = model(**inputs, labels=batch["targets"][None]).loss
        assert ours.item() == pytest.approx(own.item() * len(batch["targets"]), rel=1e-5)


def test_ctc_is_the_sum_over_all_alignments(rows):
    """−log Σ over every sequence of frames that spells the text, counted one by one."""
    _, task = speaker("wav2vec2")
    frames, letters = 5, 4
    logits = torch.randn(frames, letters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = [2, 2]
    total = 0.0
    log_probs = logits.log_softmax(-1)
    for path in itertools.product(range(letters), repeat=frames):
        if [c for c, _ in itertools.groupby(path) if c != 0] == labels:
            total += math.exp(sum(log_probs[t, c].item() for t, c in enumerate(path)))
    batch = {
        "counts": torch.tensor([frames]), "labels": torch.tensor([labels]), "label_lengths": torch.tensor([2]),
    }  # fmt: skip
    value = task.architecture.cross_entropy(Dense(logits), batch)
    assert value.item() == pytest.approx(-math.log(total), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_and_unpadded_rows_agree(kind, rows):
    model, task = speaker(kind)
    examples = encoded(task, rows[:7])
    batch = task.collate(examples)
    together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
    alone = []
    for example in examples:
        one = task.collate([example])
        alone.append(task.rows(task.forward(model, one), one).log_probs(slice(None)))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=2e-5)
    assert task.padding_effect.matters(model, batch) == (kind in APART)
    assert not model.training
    both = task.predict(model, examples)
    single = [task.predict(model, [example])[0] for example in examples]
    assert [p.value for p in both] == [p.value for p in single]
    np.testing.assert_allclose([p.loss for p in both], [p.loss for p in single], rtol=1e-4)


@pytest.mark.parametrize("kind", ["speech_to_text", "moonshine", "wav2vec2 group"])
def test_what_is_written_or_drawn_does_not_depend_on_the_other_recordings(kind, rows, monkeypatch):
    """Whose output depends on the padding: what a teacher writes and what a student draws, in a batch and alone."""
    model, task = speaker(kind)
    examples = [e for row in rows for e in task.encode_scored(row, labelled=False)]
    assert len({tuple(e.notes["shapes"].values()) for e in examples}) > 2
    alone = [task.architecture.candidates(model, [example], "cpu", 2)[0] for example in examples]
    assert task.candidates(model, examples, "cpu", 2) == alone
    if kind in CTC:
        return
    assert task.architecture.candidates(model, examples, "cpu", 2) != alone  # without care
    seen: list[set[Any]] = []
    draw = task.architecture.sample

    def noting(model, part, device):
        seen.append({tuple(e.notes["shapes"].values()) for e in part})
        return draw(model, part, device)

    monkeypatch.setattr(task.architecture, "sample", noting)
    drawn = task.sample(model, examples, "cpu")
    assert [e.key for e in drawn] == [e.key for e in examples]
    assert len(seen) > 2 and all(len(shapes) == 1 for shapes in seen)


def test_a_teacher_writes_what_it_writes_for_each_recording_alone(tmp_path):
    given = spec(tmp_path, "moonshine", "distillation")
    del given["data"]["validation"]
    given["training"]["epochs"] = 1
    given |= {"generation": {"max_new_tokens": 8, "targets": "reference"}}
    kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    (file,) = (tmp_path / ".cache").glob("*/targets.jsonl")
    lines = file.read_text("utf-8").splitlines()[1:]
    model, task = speaker("moonshine", 1, max_new_tokens=8)
    read, _ = reading.read(DataSource(str(tmp_path / "train.jsonl")), task.columns, {}, labelled=False)
    alone = {row.key: task.predict(model, task.encode_scored(row, labelled=False))[0].value for row in read}
    assert {entry["key"]: entry["text"] for entry in map(json.loads, lines)} == alone
    assert len(set(alone.values())) > 1


def test_without_care_the_padding_would_be_heard(rows):
    """The trap that `_apart` is for: what a group-normalised encoder says of a row hangs on its neighbours."""
    model, task = speaker("wav2vec2 group")
    examples = encoded(task, [rows[0], rows[11]])
    batch = task.collate(examples)
    padded = model(**batch["inputs"]).logits[0, : examples[0].predictions]
    one = task.collate(examples[:1])
    assert (padded - model(**one["inputs"]).logits[0]).abs().max() > 1e-2


def test_a_wrapped_model_is_called_once_for_a_batch_of_several_lengths(rows):
    model, task = speaker("wav2vec2 group")

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.calls = model, 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.module(*args, **kwargs)

    wrapper = Wrapper()
    batch = task.collate(encoded(task, rows[:5]))
    found = task.forward(wrapper, batch).logits
    assert wrapper.calls == 1
    assert "forward" not in vars(model)
    torch.testing.assert_close(found, task.forward(model, batch).logits)


def test_rows_without_text_carry_divergence_alone(rows):
    model, task = speaker("wav2vec2")
    (bare,) = task.encode(rows[0], labelled=False)
    batch = task.collate([bare, *encoded(task, rows[1:3])])
    student = task.rows(task.forward(model, batch), batch)
    losses = task.architecture.losses(student, batch)
    assert losses[0] == 0.0 and min(losses[1:]) > 0
    assert task.counts(batch)[0] == len(TEXTS[1]) + len(TEXTS[2])
    reference = Dense(torch.randn(len(student), student.choices))
    terms = Objective(weight=1.0)(
        task.cross_entropy(student, batch), student, reference, counts=Counts(10, len(student))
    )
    assert torch.isfinite(terms.loss)


# Text


def test_a_text_comes_back_from_its_letters():
    _, task = speaker("wav2vec2")
    texts = ["hello  all", "zéro", " a bell "]
    tokenizer = tokenizer_training.train(TrainTokenizer(train="characters", size=99), texts, ends=False, spells=True)
    task.processor.tokenizer = tokenizer
    ids = tokenizer("hello all")["input_ids"]
    doubled = [j for i in ids for j in (i, i, task.architecture.blank)]
    assert task.architecture.spell(doubled) == "hello all"
    assert tokenizer.decode(doubled) == "hello all"  # as stock transformers reads frames
    assert task.architecture.spell([]) == ""


@pytest.mark.parametrize("ends", [True, False])
def test_letters_of_an_encoder_decoder_end(ends):
    tokenizer = tokenizer_training.train(TrainTokenizer(train="characters", size=99), ["hello all", "zéro"], ends=ends)
    ids = tokenizer("zéro all")["input_ids"]
    assert (ids[-1] == tokenizer.eos_token_id) == ends
    assert tokenizer.decode(ids, skip_special_tokens=True) == "zéro all"
    assert tokenizer.unk_token_id in tokenizer("x")["input_ids"]


def test_the_rarest_letters_are_left_out():
    tokenizer = tokenizer_training.train(
        TrainTokenizer(train="characters", size=5), ["aab", "bbz"], ends=False, spells=True
    )
    assert tokenizer.get_vocab() == {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}


def test_a_model_that_spells_in_upper_case_is_told_so(rows):
    _, task = speaker("wav2vec2")
    upper = tokenizer_training.train(
        TrainTokenizer(train="characters", size=99), [t.upper() for t in TEXTS], ends=False, spells=True
    )
    loud = SpeechRecognition(processors.Pair(upper, task.extractor), task.settings)
    (example,) = loud.encode(rows[4])
    assert upper.decode(example.targets, group_tokens=False) == "A BELL"
    assert not list(loud.row_faults(rows[4], [example]))
    assert any("upper case" in said for said in loud.notices([example]))


# Scores


PAIRS = [
    ("It was, in fact, a dull film.", "it was in fact the dull film"), ("No!", "yes no no"), ("one two three", ""),
    ("Don't stop", "dont stop"), ("Straße  und\tWeg", "straße weg und"), ("naïve café", "naive cafe"),
]  # fmt: skip


def test_the_rates_are_jiwers():
    import jiwer

    _, task = speaker("wav2vec2")
    table = task.statistics([heard for _, heard in PAIRS], [right for right, _ in PAIRS])
    right, heard = ([normalised(pair[side]) for pair in PAIRS] for side in (0, 1))
    scores = task.scores(table.sum(0))
    assert scores["wer"] == pytest.approx(jiwer.wer(right, heard), rel=1e-12)
    assert scores["cer"] == pytest.approx(jiwer.cer(right, heard), rel=1e-12)
    for (gold, value), line in zip(PAIRS, table, strict=True):
        assert task.row_score(value, gold) == pytest.approx(max(0, 1 - line[0] / line[1]))
    assert task.row_score("yes no no", "No!") == 0.0
    assert task.primary_sign == -1


def test_jiwers_own_normalisation_agrees():
    import jiwer

    steps = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    for text in (text for pair in PAIRS for text in pair if "\t" not in text):
        assert normalised(text) == jiwer.Compose(steps)(text)


def test_chinese_words_are_characters():
    _, task = speaker("wav2vec2")
    assert words("今天天气很好。") == list("今天天气很好")
    scores = task.scores(task.statistics(["今天天气好"], ["今天,天气很好。"])[0])
    assert scores["wer"] == scores["cer"] == pytest.approx(1 / 6)


def test_nothing_to_say_is_no_division_by_zero():
    _, task = speaker("wav2vec2")
    table = task.statistics(["", "um"], ["...", "!"])
    assert table.tolist() == [[0, 0, 0, 0], [1, 0, 2, 0]]
    assert task.row_score("", "...") == 1.0 and task.row_score("um", "!") == 0.0
    assert task.statistics([], []).shape == (0, 4)


# Whole runs


WHOLE = ["wav2vec2", "wav2vec2 group", "whisper", "speech_to_text"]


STAND_FOR_ALL = {("wav2vec2", "distillation"), ("wav2vec2 group", "fine-tuning"), ("whisper", "distillation"),
                 ("speech_to_text", "cross-domain")}  # fmt: skip


@pytest.mark.parametrize(("kind", "method"), wide.all_but(by_turns([(kind,) for kind in WHOLE]), STAND_FOR_ALL))
def test_a_run_trains_saves_and_predicts_the_same(tmp_path, kind, method):
    """Each kind under each method is trained in `contract/test_families`."""
    given = spec(tmp_path, kind, method)
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    result = run.result
    assert result["status"] == "completed"
    before, after = result["metrics"]["before"]["test"], result["metrics"]["test"]
    assert list(after)[:3] == ["wer", "cer", "loss"]
    assert "no punctuation" in after["normaliser"]
    if method == "fine-tuning":
        assert after["loss"] < before["loss"]
    assert (result["objective"]["divergence"] is None) == (method == "fine-tuning")
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]
    assert [line["gold"] for line in stored] == TEXTS[:4]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]
    scored = kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)["metrics"]
    assert scored == pytest.approx({k: v for k, v in after.items() if isinstance(v, float)})

    auto = "AutoModelForCTC" if kind in CTC else "AutoModelForSpeechSeq2Seq"
    stock = getattr(transformers, auto).from_pretrained(run.model, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(run.model)
    wave, rate = soundfile.read(tmp_path / "audio/0.wav", dtype="float32")
    inputs = extractor(wave, sampling_rate=rate, return_tensors="pt")
    if kind in CTC:
        with torch.no_grad():
            assert tokenizer.decode(stock(**inputs).logits[0].argmax(-1)).strip() == stored[0]["prediction"]


NEW = {
    "wav2vec2": "characters", "wav2vec2-bert": "bpe", "whisper": "bpe", "speech_to_text": "characters",
}  # fmt: skip


@pytest.mark.parametrize("kind", NEW)
def test_a_model_from_nothing_learns_and_is_loaded_by_stock_transformers(tmp_path, kind):
    given = spec(tmp_path, "wav2vec2", "fine-tuning")
    given["model"] = {"new": spec_of(kind), "tokenizer": {"train": NEW[kind], "size": 280}}
    del given["data"]["validation"]
    given["training"]["epochs"] = 1
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["before"]["test"] is None
    auto = "AutoModelForCTC" if kind in CTC else "AutoModelForSpeechSeq2Seq"
    stock = getattr(transformers, auto).from_pretrained(run.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(run.model)
    assert stock.config.vocab_size == len(tokenizer)
    assert getattr(stock.config, "mask_time_prob", 0.0) == 0.0
    wave, rate = soundfile.read(tmp_path / "audio/0.wav", dtype="float32")
    inputs = extractor(wave, sampling_rate=rate, return_tensors="pt")
    if kind not in CTC:
        inputs["decoder_input_ids"] = torch.tensor([[stock.config.decoder_start_token_id]])
    assert torch.isfinite(stock(**inputs).logits).all()


def test_spec_augment_stays_where_it_is_asked_for():
    rows = [Row({"audio": "", "text": "a"}, "f", 1, "k")]
    tokens = TrainTokenizer(train="characters", size=9)
    new = fields.NewModel(new={"model_type": "wav2vec2", "mask_time_prob": 0.07}, tokenizer=tokens)
    config, _ = initialization.files(new, Anywhere(Path()), SpeechRecognition, rows)  # type: ignore[arg-type]
    assert (config.mask_time_prob, config.mask_feature_prob) == (0.07, 0.0)


def test_whispers_window_is_whole_seconds(tmp_path):
    new = fields.NewModel(
        new={**spec_of("whisper"), "max_source_positions": 120}, tokenizer={"train": "bpe", "size": 300}
    )
    rows = [Row({"audio": "", "text": "a"}, "f", 1, "k")]
    with pytest.raises(UserError, match="a multiple of 50"):
        initialization.files(new, Anywhere(tmp_path), SpeechRecognition, rows)  # type: ignore[arg-type]


def test_a_teacher_with_other_frames_is_refused(tmp_path):
    given = spec(tmp_path, "wav2vec2", "distillation")
    SIZES["wav2vec2 wide"] = {**SIZES["wav2vec2"], "conv_stride": [5, 8, 8]}
    try:
        rows = [Row({"audio": "", "text": text}, "f", 1, "k") for text in TEXTS]
        new = fields.NewModel(new=spec_of("wav2vec2 wide"), tokenizer={"train": "characters", "size": 300})
        config, processor = initialization.files(new, Anywhere(tmp_path), SpeechRecognition, rows)  # type: ignore[arg-type]
        saving.save(transformers.AutoModelForCTC.from_config(config), processor, tmp_path / "teacher")
    finally:
        del SIZES["wav2vec2 wide"]
    with pytest.raises(UserError, match="a prediction for each frame"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


# Bad recordings and bad texts


def wav(count: int = 8000, *, claim: int | None = None, block: int = 2) -> bytes:
    """A WAV of noise whose header may claim another size."""
    body = (np.random.default_rng(0).integers(-9000, 9000, count, dtype=np.int16)).tobytes()
    size = len(body) if claim is None else claim
    head = (
        b"RIFF"
        + struct.pack("<I", 36 + min(size, 2**31))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, block, 16)
    )
    return head + b"data" + struct.pack("<I", size) + body


def written(kind: str, wave: np.ndarray, **options: Any) -> bytes:
    import io

    stream = io.BytesIO()
    soundfile.write(stream, wave, RATE, format=kind, **options)
    return stream.getvalue()


NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, RATE)
BAD: dict[str, tuple[Any, str]] = {
    "missing": (None, "missing file"),
    "zero bytes": (b"", "a file with content"),
    "html": (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "text": (b"hello, no sound", "no recording: it begins with"),
    "S1 cut wav": (wav()[:9000], r"8956 bytes of sound where the header says 16000"),
    "S1 wav header claims more": (wav(claim=999_998), "the header says 999998"),
    "S1 wav header claims one byte": (wav(claim=1), "broken recording|header lies|empty recording"),
    "S1 wav header with another block": (wav(block=7), "header lies|broken recording"),
    "S1 cut in the header": (wav()[:30], "broken recording|no recording"),
    "S1 cut flac": (written("FLAC", NOISE)[:9000], "broken recording|cut recording"),
    "S1 cut ogg": (written("OGG", NOISE)[:6000], "without its last page|broken recording"),
    "S3 no samples": (wav(0), "0 samples"),
    "S3 silence": (written("WAV", np.zeros(RATE)), "each of 16000 samples is 0"),
    "S3 NaN": (
        written("WAV", np.where(np.arange(RATE) == 77, np.nan, NOISE), subtype="FLOAT"),
        "NaN or infinity from sample 77",
    ),
    "S3 infinity": (written("WAV", np.where(np.arange(RATE) == 7, np.inf, NOISE), subtype="FLOAT"), "from sample 7 "),
    "S4 channels that cancel": (
        written("WAV", np.stack([NOISE, -NOISE], 1), subtype="FLOAT"),
        "as the channels' average",
    ),
    "too short": (wav(20), "recording too short|at least"),
    "another format": (written("VOC", NOISE), "format VOC"),
}


def refusals(tmp_path: Path, kind: str, bad: dict[str, tuple[Any, str]]) -> None:
    """Of all that is bad at once: each is refused by file, row and field, and left out where that is asked for."""
    given = spec(tmp_path, kind, "fine-tuning")
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        for number, (content, _) in enumerate(bad.values()):
            if content is not None:
                (tmp_path / "audio" / f"bad{number}.wav").write_bytes(content)
            file.write(json.dumps({"audio": f"audio/bad{number}.wav", "text": "one"}) + "\n")
    skipped = refused_or_skipped(given, tmp_path, "audio", "bad{}.wav", bad, first=13)
    assert len(skipped.rows["train"]) == len(skipped.encoded["train"]) == 12


def test_bad_recordings_are_refused_by_file_row_and_field(tmp_path):
    refusals(tmp_path, "wav2vec2", {name: bad for name, bad in BAD.items() if name != "too short"})


def test_a_recording_too_short_for_a_frame_is_refused(tmp_path):
    refusals(tmp_path, "wav2vec2-bert", {"too short": BAD["too short"]})


GOOD = {
    "streamed wav": wav(claim=0xFFFFFFFF),
    "twelve channels": written("WAV", np.stack([NOISE] * 12, 1)),
    "float": written("WAV", NOISE, subtype="FLOAT"), "24 bits": written("WAV", NOISE, subtype="PCM_24"),
    "mu-law": written("WAV", NOISE, subtype="ULAW"), "flac": written("FLAC", NOISE), "ogg": written("OGG", NOISE),
    "mp3": written("MP3", NOISE),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_sound_recordings_pass(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(GOOD[kind])
    row = row_of(tmp_path / "a.wav", "one")
    assert not SpeechRecognition.faults(row)
    heard = audio.read(row.fields["audio"].path)
    assert 0.1 < np.abs(heard.wave).max() <= 1.5
    assert len(heard.wave) > 7000


BAD_TEXTS = [
    (
        "S5",
        "zero one two three seven nine " * 4,
        "text",
        r"letters and \d+ repeats for \d+ frames.*|at least \d+ frames",
    ),
    ("S6", "zéro 5", "text", "'é', '5' in"),
    ("blank", "a <pad> b", "text", "<pad>"),
    ("empty", " ", "text", "text that is not blank"),
    ("null", None, "text", "text"),
]


@pytest.mark.parametrize("texts", [BAD_TEXTS[:3], BAD_TEXTS[3:]], ids=["unspelt", "none"])
def test_texts_that_cannot_be_spelt_are_refused(tmp_path, texts):
    """Those that are none before a tokenizer has seen the others."""
    given = spec(tmp_path, "wav2vec2", "fine-tuning")
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"audio": "audio/0.wav", "text": text}) + "\n" for _, text, _, _ in texts)
    with pytest.raises(UserError) as caught:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    problems = {problem.where: problem for problem in caught.value.problems}
    assert len(caught.value.problems) == len(problems) == len(texts)
    for number, (name, _, field, message) in enumerate(texts):
        problem = problems[f"{tmp_path / 'train.jsonl'}:{13 + number}"]
        assert problem.field == field
        assert re.search(message, str(problem)), name
    skipped = prepare.prepare(recipe.from_dict(given | {"data": given["data"] | {"bad_rows": "skip"}}, tmp_path))
    assert len(skipped.rows["train"]) == 12


def test_a_text_that_just_fits_its_frames_passes(tmp_path):
    """len + repeats ≤ frames: one frame less makes the loss infinite."""
    model, task = speaker("wav2vec2")
    soundfile.write(tmp_path / "a.wav", tone("abc", 0, 0.1), RATE)
    frames = task.encode(row_of(tmp_path / "a.wav", "a"))[0].predictions
    fits = ("lo" * frames)[:frames]
    doubled = "l" * (frames // 2 + 1)
    for text, good in ((fits, True), (fits + "l", False), (doubled[: (frames + 1) // 2], True), (doubled + "l", False)):
        row = row_of(tmp_path / "a.wav", text)
        (example,) = task.encode(row)
        assert (not list(task.row_faults(row, [example]))) == good, text
        batch = task.collate([example])
        loss = task.cross_entropy(task.rows(task.forward(model, batch), batch), batch)
        assert bool(torch.isfinite(loss)) == good


def test_a_run_with_recordings_longer_than_the_window(tmp_path):
    """Learnt in parts whose words the model tells, or the rows' segments; scored in all parts."""
    given = spec(tmp_path, "whisper", "fine-tuning")
    soundfile.write(tmp_path / "audio" / "long.wav", tone("one", 0, 4.5), RATE)
    segments = [{"start": 0.0, "end": 1.5, "text": "one"}, {"start": 1.5, "end": 4.5 - 1.2, "text": "two"}]
    for name, rows in (("train.jsonl", [{}, {"segments": segments}]), ("test.jsonl", [{}])):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"audio": "audio/long.wav", "text": "one two", **row}) + "\n" for row in rows)
    said: list[str] = []
    display = Display(quiet=True)
    display.say = said.append  # type: ignore[method-assign]
    run = kt.train(recipe.from_dict(given, tmp_path), display=display)
    assert run.result["status"] == "completed"
    assert any("1 long recordings are 3 parts" in line for line in said)
    lines = [json.loads(line) for line in (run.folder / "predictions/test.jsonl").read_text().splitlines()]
    assert [line["predictions"] > 0 for line in lines] == [True] * 4 + [False]  # a part has no loss
    cut = run.result["generation"]["cut"]
    assert cut["test"] == [sum(line.get("cut", False) for line in lines), 5] and set(cut) == {"validation", "test"}
    assert any("without coming to their end" in line for line in said) == any(n for n, _ in cut.values())
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in lines]


def test_where_all_recordings_are_scored_in_parts_there_is_no_loss_and_wer_chooses(tmp_path):
    """Not 0.0, which would be the best of all losses."""
    given = spec(tmp_path, "whisper", "fine-tuning")
    given |= {"evaluation": {"every": 1}, "generation": {}}
    soundfile.write(tmp_path / "audio" / "long.wav", tone("one", 0, 2.5), RATE)
    row = json.dumps({"audio": "audio/long.wav", "text": "one two"})
    (tmp_path / "long.jsonl").write_text(f"{row}\n", encoding="utf-8")
    given["data"] |= {"validation": "long.jsonl", "test": "long.jsonl"}
    given["training"] |= {"max_steps": 2}
    given["training"].pop("epochs", None)
    chosen_by_loss = given | {"evaluation": {"metric": "loss"}}
    with pytest.raises(UserError, match="1 of 1 rows of validation have no loss") as raised:
        prepare.prepare(recipe.from_dict(chosen_by_loss, tmp_path))
    assert "wer chooses" in str(raised.value)
    said: list[str] = []
    display = Display(quiet=True)
    display.say = said.append  # type: ignore[method-assign]
    run = kt.train(recipe.from_dict(given, tmp_path), display=display)
    assert any("wer alone chooses the best" in line for line in said)
    metrics, intervals = (run.result[key] for key in ("metrics", "intervals"))
    for of_split in (metrics["validation"], metrics["test"], metrics["before"]["test"], intervals["test"]):
        assert "wer" in of_split and "loss" not in of_split
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert any("eval_wer" in entry for entry in log) and not any("eval_loss" in entry for entry in log)
    scored = kt.evaluate(run.folder, tmp_path / "long.jsonl", display=QUIET)
    assert list(scored["metrics"]) == list(scored["intervals"]) == ["wer", "cer"]
    most = run.result["generation"]["settings"]["max_new_tokens"]  # all places but that of the start
    assert most == 31 == open_model(run.folder, None).task.settings.max_new_tokens


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("max_length", 100, "no max_length"), ("languages", {"source": "german", "target": "german"}, "not told any")],
)
def test_settings_that_mean_nothing_here_are_refused(tmp_path, field, value, message):
    given = spec(tmp_path, "wav2vec2", "fine-tuning") | {field: value}
    with pytest.raises(UserError, match=message):
        prepare.prepare(recipe.from_dict(given, tmp_path))


@pytest.mark.parametrize("path", ["/etc/hostname", "../audio/0.wav", "https://example.org/a.wav"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, path):
    given = spec(tmp_path, "wav2vec2", "fine-tuning")
    (tmp_path / "train.jsonl").write_text(json.dumps({"audio": path, "text": "one"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.jsonl:1 · audio"):
        prepare.prepare(recipe.from_dict(given, tmp_path))


def test_bad_rows_to_score_are_named_too(tmp_path):
    save("wav2vec2", tmp_path / "model")
    write(tmp_path, "rows.jsonl", range(2))
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"audio": "audio/0.wav", "text": "é"}) + "\n")
        file.write(json.dumps({"audio": "audio/1.wav", "text": "zero " * 40}) + "\n")
    assert refused_rows(kt.evaluate, tmp_path) == ["3 text", "4 text"]
    (tmp_path / "audio" / "bad.wav").write_bytes(wav()[:9000])
    (tmp_path / "audio" / "short.wav").write_bytes(wav(20))
    names = ["audio/bad.wav", "audio/0.wav", "audio/short.wav", "audio/none.wav"]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"audio": name}) for name in names), encoding="utf-8")
    assert refused_rows(kt.predict, tmp_path) == ["1 audio", "3 audio", "4 audio"]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"audio": "audio/0.wav", "text": ["any"]}), encoding="utf-8")
    (line,) = kt.predict(tmp_path / "model", tmp_path / "rows.jsonl", task="speech-recognition", display=QUIET)
    assert line["text"] == ["any"]  # what is not read may be anything


def refused_rows(apply: Any, folder: Path) -> list[str]:
    """Line and field of each problem that evaluating or predicting reports."""
    with pytest.raises(UserError) as caught:
        apply(folder / "model", folder / "rows.jsonl", task="speech-recognition", display=QUIET)
    return sorted(f"{p.where.rpartition(':')[2]} {p.field}" for p in caught.value.problems)


# Real recordings


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["wav2vec2", "whisper", "speech_to_text", "wav2vec2-bert"])
def test_real_clips_encode_and_their_frames_are_the_models(real_data, kind):
    model, task = speaker(kind)
    if kind == "whisper":  # its window is two seconds here
        task.extractor.__init__(feature_size=20, chunk_length=30)
    for name, count in (("asr-fsdd", 20), ("asr-ljspeech", 5)):
        source = DataSource(str(real_data / name / "train.jsonl"))
        found, problems = reading.read(source, SpeechRecognition.columns, {})
        assert not problems
        assert not [fault for row in found for fault in task.faults(row)]
        for row in found[:count]:
            (example,) = task.encode(row, labelled=False)
            batch = task.collate([example])
            _, _, samples = task.recordings.facts[row.fields["audio"].digest]
            assert samples == pytest.approx(row.fields["seconds"] * RATE, abs=RATE * 0.01)
            if kind in CTC:
                logits = model(**batch["inputs"]).logits
                assert example.predictions == logits.shape[1] - unheard(batch)
                assert torch.isfinite(logits).all()
            elif kind == "speech_to_text":
                hidden = model.get_encoder()(**{k: v for k, v in batch["inputs"].items() if "decoder" not in k})[0]
                assert example.length == hidden.shape[1]
            else:
                assert batch["inputs"]["input_features"].shape == (1, 20, 3000)
                assert example.length == 1500
