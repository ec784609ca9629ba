"""An exported model answers as the one that it was made of, and says so only where it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import keeltune as kt
from keeltune.exporters import folder as exported_folder
from keeltune.exporters import parity
from keeltune.exporters.graph import OnnxGraph, tokens_of
from keeltune.models import libraries
from keeltune.runs import claim
from keeltune.runs.opened_model import open_model
from keeltune.utils.errors import UnequalExport, UserError
from keeltune.utils.progress import Display
from tests.helpers import cards, families
from tests.helpers.command import keeltune
from tests.helpers.models import save_tiny
from tests.helpers.runs import lines, reviews, spec_of, train, write_rows
from tests.runs.test_model_cards import stir

pytest.importorskip("onnxruntime", reason="the libraries come with keeltune[export]")

QUIET = Display(quiet=True)
COVERED = [
    ("sentiment-analysis", "bert"),
    ("token-classification", "distilbert"),
    ("question-answering", "electra"),
    pytest.param(("regression", "roberta"), marks=pytest.mark.wide),
    pytest.param(("semantic-role-labeling", "bert"), marks=pytest.mark.wide),
]


def trained(folder: Path, task: str, architecture: str) -> Path:
    """A tiny run with test rows."""
    spec = families.spec(folder, task, architecture, "fine-tuning")
    stir(folder / "student")
    spec |= {"output": "out", "data": {"train": "rows.jsonl", "test": "rows.jsonl"}}
    spec["training"] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-5, "precision": "fp32"}
    return kt.train(kt.recipe.from_dict(spec, folder), display=QUIET).folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(task, architecture)`: a run and its export, made once."""
    made: dict[Any, tuple[Path, Any]] = {}

    def make(task: str, architecture: str) -> tuple[Path, Any]:
        if task not in made:
            run = trained(tmp_path_factory.mktemp(task), task, architecture)
            made[task] = run, kt.export(run, display=QUIET)
        return made[task]

    return make


@pytest.fixture(scope="module", params=COVERED, ids="-".join)
def one(request, exported):
    return exported(*request.param)


def test_the_proof_holds_and_is_sealed(one):
    run, made = one
    assert made.folder == run / "export" / "onnx"
    proof = json.loads((made.folder / "export.json").read_text())
    assert proof == made.proof
    assert proof["equal"] and proof["logits"] <= 1e-5 and proof["predictions"] in (None, 1.0)
    for metric in proof["metrics"].values():
        assert metric["difference"] == pytest.approx(0, abs=1e-5)
        assert metric["interval"] == pytest.approx([0, 0], abs=1e-4)
    assert proof["rows_per_second"]["torch"] > 0 and proof["rows_per_second"]["exported"] > 0
    assert {"model.onnx", "config.json", "tokenizer.json"} <= set(proof["files"])
    assert (made.folder / "model.onnx").stat().st_size == proof["bytes"]["exported"]
    assert all(finding.is_sound for finding in kt.verify(made.folder))


def test_other_numbers_of_rows_and_tokens_than_the_traced_ones(one):
    run, made = one
    model = open_model(run, None).model
    graph = OnnxGraph(made.folder / "model.onnx", model.config)
    drawn = torch.Generator().manual_seed(0)
    for rows, tokens in ((1, 1), (1, 5), (3, 31), (9, 17)):
        ids = torch.randint(5, 20, (rows, tokens), generator=drawn)
        mask = torch.ones_like(ids)
        mask[rows // 2, tokens // 2 + 1 :] = 0  # padding
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        inputs = {name: inputs[name] for name in graph.reads}
        with torch.no_grad():
            ours, theirs = model(**inputs), graph(**inputs)
        for name in graph.says:
            places = mask.bool() if getattr(ours, name).shape[:2] == mask.shape else ...
            assert (getattr(ours, name) - getattr(theirs, name))[places].abs().max() <= 1e-5


def test_the_card_answers_as_keeltune_without_it_and_without_torch(one):
    run, made = one
    row = cards.row_of(made.folder)
    (ours,) = kt.predict(run, [row], display=QUIET)
    ((theirs,),) = cards.answers([(made.folder, [None])], without=("keeltune", "torch"))
    expected = ours["prediction"]
    if isinstance(theirs, dict):
        assert theirs["label"] == expected and theirs["score"] == pytest.approx(
            ours["probabilities"][expected], abs=1e-5
        )
    else:
        assert theirs == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)
    assert "torch" not in cards.program_of(made.folder)


def test_keeltune_asks_an_export_as_it_asks_the_run(one):
    run, made = one
    rows = [json.loads(line) for line in (run.parent / "rows.jsonl").read_text().splitlines()]
    ours, theirs = (kt.predict(place, rows, display=QUIET) for place in (run, made.folder))
    for a, b in zip(ours, theirs, strict=True):
        assert b["prediction"] == (pytest.approx(a["prediction"]) if "target" in a else a["prediction"])
        assert b.get("probabilities") == pytest.approx(a.get("probabilities"), abs=1e-5)
    scored = [kt.evaluate(place, rows, display=QUIET)["metrics"] for place in (run, made.folder)]
    assert scored[1] == pytest.approx(scored[0], abs=1e-5)


def test_a_text_alone_and_a_changed_file(exported, tmp_path, monkeypatch, capsys):
    _, made = exported("sentiment-analysis", "bert")
    assert keeltune(monkeypatch, "predict", made.folder, "--text", "a fine film") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"] in ("negative", "positive")
    assert keeltune(monkeypatch, "predict", made.folder / "model.onnx", "--text", "a fine film") == 0
    assert json.loads(capsys.readouterr().out) == answer
    copy = shutil.copytree(made.folder, tmp_path / "copy")
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("positive", "POSITIVE"))
    assert keeltune(monkeypatch, "predict", copy, "--text", "a fine film") == 3
    assert "config.json has the SHA-256" in capsys.readouterr().err
    assert not all(finding.is_sound for finding in kt.verify(copy))


def test_int8_is_smaller_and_scored(exported, tmp_path):
    run, whole = exported("sentiment-analysis", "bert")
    try:
        made = kt.export(run, "int8", tmp_path / "small", display=QUIET)
    except UnequalExport as error:  # of 24 rows one that changes is too many
        made = error.exported
    proof = made.proof
    assert proof["bytes"]["exported"] < whole.proof["bytes"]["exported"]
    assert 0 < proof["logits"] < 1
    assert proof["equal"] == (proof["metrics"]["accuracy"]["gain"][0] >= -parity.LOSS)
    assert not list(made.folder.glob("float32*"))
    texts = ["a fine film", "the plot was dull and very long"]
    model = kt.load(made.folder)
    assert model(texts) == [model(text) for text in texts]  # rows beside a row change nothing of it


def test_a_graph_of_other_weights_is_unequal_and_says_so(exported, tmp_path, monkeypatch, capsys):
    import onnx

    from keeltune.exporters import onnx as ours

    run, _ = exported("sentiment-analysis", "bert")
    write = ours.write_onnx

    def tampered(model, inputs, file, where):
        write(model, inputs, file, where)
        graph = onnx.load(file)
        weight = next(w for w in graph.graph.initializer if w.name.endswith("word_embeddings.weight"))
        table = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(table[::-1]), weight.name))
        onnx.save(graph, file)

    monkeypatch.setattr(ours, "write_onnx", tampered)
    place = tmp_path / "graph"
    assert keeltune(monkeypatch, "export", run, "--to", "onnx", "--output", place) == 6
    said = capsys.readouterr()
    assert "logits differ by" in said.err and "rows a second, one thread" in said.out
    proof = json.loads((place / "export.json").read_text())
    assert proof["equal"] is False and proof["faults"]
    assert "Not equal" in (place / "README.md").read_text()


def test_logits_of_a_row_are_compared_however_many_tokens_it_has():
    """Three classes of rows of three tokens, the second of which is padded where the classes differ."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    logits = torch.zeros(2, 3)
    other = logits + torch.tensor([[0, 0, 0], [0, 0, 0.5]])
    of_rows = [SimpleNamespace(logits=table) for table in (logits, other)]
    assert parity._difference(*of_rows, mask) == 0.5
    of_tokens = [SimpleNamespace(logits=table[..., None]) for table in (logits, other)]
    ends = [SimpleNamespace(start_logits=logits, end_logits=table) for table in (logits, other)]
    assert parity._difference(*of_tokens, mask) == parity._difference(*ends, mask) == 0


def test_a_model_without_a_mask_has_no_padding():
    """As FNet's, which transforms all that it is given."""
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert tokens_of({"input_ids": ids}).all()
    assert torch.equal(tokens_of({"input_ids": ids, "attention_mask": mask}), mask.bool())
    asked = OnnxGraph.__new__(OnnxGraph)
    torch.nn.Module.__init__(asked)
    asked.says, asked.by_token = ["logits"], {"logits": True}
    asked._run = lambda inputs: {"logits": inputs["input_ids"][..., None].float()}
    assert torch.equal(asked._one_by_one({"input_ids": ids})["logits"][..., 0], ids.float())


@pytest.mark.parametrize(("answers", "value", "hollow"), [(2, 0.8, False), (1, 0.8, True), (9, 0.0, True)])
def test_a_model_that_has_nothing_to_lose_proves_little(answers, value, hollow):
    measure = {"answers": answers, "metric": "f1", "metrics": {"f1": {"torch": value}}}
    assert parity.is_hollow(measure) is hollow


def test_what_is_not_covered_is_refused_in_words(tmp_path, exported):
    run, _ = exported("sentiment-analysis", "bert")
    with pytest.raises(UserError, match=r"litert.*, which is not written: no converter") as error:
        kt.export(run, "litert", display=QUIET)
    assert error.value.problems[0].expected == "onnx or int8"
    with pytest.raises(UserError, match="an earlier export"):
        kt.export(run, display=QUIET)
    with pytest.raises(UserError, match="something that is no export"):
        kt.export(run, output=run / "model", overwrite=True, display=QUIET)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file, which is a file"):
        kt.export(run, output=tmp_path / "file" / "graph", display=QUIET)
    with pytest.raises(UserError, match="no such folder"):
        kt.export(tmp_path / "nothing", display=QUIET)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_folder_that_a_command_is_called_from_is_not_replaced(tmp_path, monkeypatch, overwrite):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the folder of the call"):
        exported_folder.refuse_used(Path("."), overwrite=overwrite)


def test_a_missing_library_is_named_with_the_extra_that_brings_it(exported, monkeypatch):
    run, _ = exported("sentiment-analysis", "bert")
    monkeypatch.setattr(libraries, "installed", lambda module: module != "onnxscript")
    with pytest.raises(UserError) as error:
        kt.export(run, "int8", display=QUIET)
    (problem,) = error.value.problems
    assert (problem.found, problem.fix) == ("no onnxscript", "pip install 'keeltune[export]'")


def test_rows_that_are_held_out_of_the_training_file_are_found_and_a_new_training_takes_exports_away(tmp_path):
    save_tiny(tmp_path / "m")
    write_rows(tmp_path / "rows.jsonl", reviews(120, 1))
    spec = spec_of("fine-tuning", tmp_path / "m", data={"train": "rows.jsonl"})
    run = train(spec, tmp_path)
    held = {line["row"] for line in lines(run.folder / "predictions" / "validation.jsonl")}
    made = kt.export(run.folder, "onnx", display=QUIET)
    assert (made.proof["split"], made.proof["rows"]) == ("validation", len(held))
    claim.take_over(run.folder, resume=False, overwrite=True)
    assert not made.folder.exists()


@pytest.mark.parametrize(
    ("task", "architecture", "found"),
    [("sentiment-analysis", "gpt2", "gpt2, a decoder with a head")],
)
def test_other_models_are_refused(tmp_path, task, architecture, found):
    run = trained(tmp_path, task, architecture)
    with pytest.raises(UserError, match=f"{found}.*not exported yet"):
        kt.export(run, display=QUIET)
    assert not (run / "export").exists()
