"""An exported model that writes writes what the model does that it was made of, token for token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import keeltune as kt
from keeltune.exporters import cached_graphs, coverage, decoding, greedy
from keeltune.exporters.greedy import Greedy
from keeltune.utils.errors import UnequalExport, UserError
from keeltune.utils.progress import Display
from tests.helpers import captioners, cards, families
from tests.runs.test_model_cards import stir

pytest.importorskip("onnxruntime", reason="the libraries come with keeltune[export]")

QUIET = Display(quiet=True)
RULED = {"max_new_tokens": 8, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 3}
COVERED = [
    ("text-generation", "gpt2", RULED),
    pytest.param(("translation", "marian", RULED), marks=pytest.mark.slow("two graphs take fifteen seconds to follow")),
    pytest.param(("text-generation", "llama", {}), marks=pytest.mark.wide),
    pytest.param(("summarization", "t5", {}), marks=pytest.mark.wide),
    pytest.param(("speech-recognition", "whisper", {}), marks=pytest.mark.wide),
    pytest.param(("speech-recognition", "wav2vec2", {}), marks=pytest.mark.wide),
    pytest.param(("image-captioning", "vit gpt2", {}), marks=pytest.mark.wide),
]


def trained(folder: Path, task: str, architecture: str, generation: dict[str, Any]) -> Path:
    """A tiny run with test rows."""
    spec = families.spec(folder, task, architecture, "fine-tuning")
    stir(folder / "student")
    spec |= {"output": "out", "data": {"train": "rows.jsonl", "test": "rows.jsonl"}}
    spec["training"] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-5, "precision": "fp32"}
    if generation:
        spec["generation"] = generation
    return kt.train(kt.recipe.from_dict(spec, folder), display=QUIET).folder


@pytest.fixture(scope="module", params=COVERED, ids=lambda case: "-".join(case[:2]))
def one(request, tmp_path_factory):
    task, architecture, generation = request.param
    run = trained(tmp_path_factory.mktemp(architecture), task, architecture, generation)
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
    if "audio" in row or "image" in row:  # which lie nowhere: those of the data
        (name,) = row
        first = json.loads((run.parent / "rows.jsonl").read_text().splitlines()[0])
        row = {name: str(run.parent / first[name])}
    (ours,) = kt.predict(run, [row], display=QUIET)
    ((theirs,),) = cards.answers([(made.folder, [row])], without=("keeltune", "torch"))
    assert theirs == ours["prediction"]
    assert "torch" not in cards.program_of(made.folder)


def test_rows_side_by_side_are_said_what_each_is_said_alone(one):
    """Padded before its first token, as other programs ask a decoder's graph."""
    import onnxruntime

    _, made = one
    if made.proof["graphs"] != ["model.onnx"] or made.proof["task"] == "speech-recognition":
        pytest.skip("no decoder alone")
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
    if whole.proof["task"] == "speech-recognition":
        pytest.skip("frames are said by another graph")

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
