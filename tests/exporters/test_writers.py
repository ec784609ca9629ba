"""An exported model that writes writes what the model does that it was made of, token for token."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import keeltune as kt
from keeltune.exporters import cached_graphs, coverage, decoding, greedy, onnx, opening, written_parity
from keeltune.exporters.greedy import Greedy
from keeltune.utils.errors import UnequalExport, UserError
from keeltune.utils.progress import Display
from tests.helpers import captioners, cards, families, speakers, whispers, writers
from tests.runs.test_model_cards import stir

pytest.importorskip("onnxruntime", reason="the libraries come with keeltune[export]")

QUIET = Display(quiet=True)
RULED = {"max_new_tokens": 8, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 3}
OTHERS = [
    ("translation", "marian"),
    ("summarization", "t5"),
    ("speech-recognition", "whisper"),
    ("speech-recognition", "wav2vec2"),
    ("image-captioning", "vit gpt2"),
]
"""Families whose graphs take from twelve to twenty-eight seconds to follow."""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A tiny run with test rows, and its export."""
    folder = tmp_path_factory.mktemp("gpt2")
    spec = families.spec(folder, "text-generation", "gpt2", "fine-tuning")
    stir(folder / "student")
    spec |= {"output": "out", "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": RULED}
    spec["training"] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-5, "precision": "fp32"}
    run = kt.train(kt.recipe.from_dict(spec, folder), display=QUIET).folder
    return run, kt.export(run, display=QUIET)


def test_the_proof_holds(one):
    _, made = one
    proof = made.proof
    assert proof["equal"] and proof["logits"] <= 2e-5 and proof["predictions"] == 1.0
    for metric in proof["metrics"].values():
        assert metric["exported"] == pytest.approx(metric["torch"], rel=1e-6, abs=1e-5)
    assert all(speed > 0 for speed in proof["rows_per_second"].values())
    assert {*proof["graphs"], "tokenizer.json", "config.json"} <= set(proof["files"])
    assert sum((made.folder / name).stat().st_size for name in proof["graphs"]) == proof["bytes"]["exported"]
    assert all(finding.is_sound for finding in kt.verify(made.folder))


def test_keeltune_asks_an_export_as_it_asks_the_run(one):
    run, made = one
    rows = run.parent / "rows.jsonl"
    ours, theirs = (kt.predict(place, rows, display=QUIET) for place in (run, made.folder))
    assert [row["prediction"] for row in ours] == [row["prediction"] for row in theirs]
    assert len({row["prediction"] for row in ours}) > 1
    scored = [kt.evaluate(place, rows, display=QUIET)["metrics"] for place in (run, made.folder)]
    assert scored[1] == pytest.approx(scored[0], abs=1e-4)


def test_the_card_writes_as_keeltune_without_it_and_without_torch(one):
    run, made = one
    row = cards.row_of(made.folder)
    (ours,) = kt.predict(run, [row], display=QUIET)
    ((theirs,),) = cards.answers([(made.folder, [row])], without=("keeltune", "torch"))
    assert theirs == ours["prediction"]
    assert "torch" not in cards.program_of(made.folder)


def test_rows_side_by_side_are_said_what_each_is_said_alone(one):
    """Padded before its first token, as other programs ask a decoder's graph."""
    import onnxruntime

    _, made = one
    session = onnxruntime.InferenceSession(made.folder / "model.onnx")
    writer = Greedy(made.folder)
    rows = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    alone = [writer.step(writer.begin({"input_ids": [row]})[0], row) for row in rows]
    ids = np.array([rows[0], [0, 0, 0, *rows[1]]])
    mask = np.array([[1] * 6, [0] * 3 + [1] * 3])
    empty = {name: np.zeros((2, shape[1], 0, shape[3]), np.float32) for name, shape in writer.inputs.items()
             if name.startswith(greedy.PAST)}  # fmt: skip
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(1) - 1, 0), **empty}
    logits = session.run(["logits"], {name: given[name] for name in writer.inputs})[0]
    assert np.abs(logits[0] - alone[0]).max() <= 1e-5
    assert np.abs(logits[1, 3:] - alone[1]).max() <= 1e-5


def test_int8_is_smaller_and_scored(one, tmp_path, monkeypatch):
    run, whole = one

    def again(model, inputs, folder, where):
        """The same graphs, which took seconds to follow."""
        for name in whole.proof["graphs"]:
            shutil.copyfile(whole.folder / name, folder / name)

    monkeypatch.setattr(cached_graphs, "write_graphs", again)
    try:
        made = kt.export(run, "int8", tmp_path / "small", display=QUIET)
    except UnequalExport as error:  # of few rows one that changes is too many
        made = error.exported
    assert made.proof["graphs"] == whole.proof["graphs"] and not list(made.folder.glob("float32*"))
    assert made.proof["bytes"]["exported"] < whole.proof["bytes"]["exported"]
    assert 1e-5 < made.proof["logits"] < 5
    rows = run.parent / "rows.jsonl"
    assert len(kt.predict(made.folder, rows, display=QUIET)) == whole.proof["rows"]


@pytest.mark.wide
@pytest.mark.parametrize(("name", "kind"), OTHERS)
def test_each_family_writes_what_torch_does(name, kind, tmp_path):
    model, task, rows = a_writer(name, kind, tmp_path)
    task.adopt(model, task.processor)
    task.listen(model, [task.encode_scored(row) for row in rows], "cpu")  # Whisper: in which language
    examples = [task.encode_scored(row)[0] for row in rows]
    by_length = sorted(examples, key=lambda example: example.length)
    inputs = task.collate([by_length[-1], by_length[0]])["inputs"]
    if task.architecture.framewise:
        onnx.write_onnx(model, inputs, tmp_path / onnx.FILE, "here")
    else:
        model.generation_config.save_pretrained(tmp_path)
        read = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        cached_graphs.write_graphs(model, read, tmp_path, "here")
    stored = getattr(model, "generation_config", None)
    graph = opening.graph_of(tmp_path, task, model.config, "onnx", stored=stored, threads=1)
    measure = written_parity.measured(task, model, graph, [[example] for example in examples], rows, None)
    assert measure["logits"] <= 1e-5 and measure["predictions"] == 1.0
    if kind == "whisper":
        heard = dict(task.listening.languages)
        task.listening.languages.clear()
        task.listen(graph, [task.encode_scored(row) for row in rows], "cpu")
        assert heard and task.listening.languages == heard


def a_writer(name: str, kind: str, folder: Path) -> tuple[Any, Any, list[Any]]:
    """(model, task, rows) of a small random model."""
    if name == "image-captioning":
        return *captioners.captioner(kind, 0), captioners.rows(folder, 4)
    if name != "speech-recognition":
        decoding = {rule: value for rule, value in RULED.items() if rule != "max_new_tokens"}
        return *writers.writer(kind, task=name, decoding=decoding), writers.rows(name)
    made = whispers.speaker(multilingual=True) if kind == "whisper" else speakers.speaker(kind)
    places = (0, 3, 6, 9)
    files = [folder / speakers.save_sound(folder, place) for place in places]
    numbered = zip(files, places, strict=True)
    return *made, [speakers.row_of(file, speakers.TEXTS[place], place) for file, place in numbered]


@pytest.mark.parametrize("begun", [1, 2, 4])
def test_the_rules_are_those_of_transformers(begun):
    """The scores of the next token, behind several beginnings, against the processors that `generate` uses."""
    ends, drawn = [3, 4], np.random.default_rng(0)
    settings = {
        "repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [6, 7], [3]],
        "min_new_tokens": 3, "suppress_tokens": [8, 9], "begin_suppress_tokens": [10], "forced_bos_token_id": 11,
        "eos_token_id": ends,
    }  # fmt: skip
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20))
    config = transformers.GenerationConfig(**settings)
    model._prepare_special_tokens(config, device="cpu")
    theirs = model._get_logits_processor(config, input_ids_seq_length=begun)
    for count in range(begun, begun + 6):
        for _ in range(5):
            ids, scores = drawn.integers(0, 20, count).tolist(), drawn.normal(size=20).astype(np.float32) * 3
            expected = theirs(torch.tensor([ids]), torch.from_numpy(scores.copy())[None])[0].numpy()
            found = greedy.allowed(scores.copy(), ids, begun, settings, ends)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("settings", "found"),
    [({"num_beams": 4}, "texts of 4 beams"), ({"do_sample": True}, "drawn"),
     ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size 3")],
)  # fmt: skip
def test_what_the_rules_cannot_keep_is_refused(settings, found):
    with pytest.raises(UserError, match=found):
        decoding.refuse_settings(transformers.GenerationConfig(**settings), "runs/x/model")
    decoding.refuse_settings(transformers.GenerationConfig(**RULED, length_penalty=2.0), "runs/x/model")


def test_a_decoder_that_sees_within_its_text_is_refused():
    model, task = captioners.captioner("git")
    with pytest.raises(UserError, match="git, which reads a picture within its text"):
        coverage.refuse_uncovered(task, "image-captioning", model.config, "runs/x/model")
