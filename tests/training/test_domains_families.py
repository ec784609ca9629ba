"""Two domains in every family: the same streams, budgets and report, whatever a prediction is."""

from __future__ import annotations

import json

import pytest

from keeltune import recipe
from keeltune.runs import comparison, run
from keeltune.utils.progress import Display
from tests.helpers import captioners, readers, speakers, taggers, wide, writers
from tests.helpers.domains import spec as of_texts
from tests.helpers.families import by_turns
from tests.helpers.runs import lines, make_data, reviews, train, write_rows

QUIET = Display(quiet=True)
FAMILIES = {
    "spans": lambda folder: readers.spec(folder, "cross-domain"),
    "tags": lambda folder: taggers.spec(folder, "cross-domain"),
    "frames": lambda folder: speakers.spec(folder, "wav2vec2", "cross-domain"),
    "frames, unpadded": lambda folder: speakers.spec(folder, "wav2vec2 group", "cross-domain"),
    "sound and text": lambda folder: speakers.spec(folder, "whisper", "cross-domain"),
    "pictures": lambda folder: captioners.spec(folder, "vit gpt2", "cross-domain"),
    "encoder-decoder": lambda folder: writers.spec(folder, "translation", "marian", "cross-domain"),
    "decoder": lambda folder: writers.spec(folder, "summarization", "gpt2", "cross-domain"),
    "text": lambda folder: writers.spec(folder, "text-generation", "llama", "cross-domain"),
}


def two_domains(values: dict, **how) -> dict:
    """The recipe with its own rows as a source domain; what is asked of it is `how`."""
    rows = values["data"]
    files = {"unlabeled": rows["train"], "train": rows["train"], "validation": rows["validation"], "test": rows["test"]}
    values = {**values, "data": {**rows, "source": files}, "objective": {"anchor_on": "both", "weight": 0.5, **how}}
    if values["objective"]["anchor_on"] == "target":
        values["data"]["source"] = {name: files[name] for name in ("validation", "test")}
    return values


ASKED = {
    "source": {"anchor_on": "source"},
    "max_kl": {"weight": {"max_kl": 0.01}},
    "max_source_drop": {"anchor_on": "target", "weight": {"max_source_drop": 0.5}},
}


CELLS = by_turns([(family,) for family in FAMILIES], list(ASKED))
FEW = [("spans", "max_source_drop"), ("tags", "source"), ("frames", "max_kl"), ("pictures", "max_kl"),
       ("encoder-decoder", "max_source_drop"), ("decoder", "source")]  # fmt: skip


@pytest.mark.parametrize(("family", "asked"), wide.all_but(CELLS, FEW))
def test_a_run_of_two_domains(tmp_path, family, asked):
    how = ASKED[asked]
    values = two_domains(FAMILIES[family](tmp_path), **how)
    finished = run.train(recipe.from_dict(values, tmp_path), display=QUIET)
    result = json.loads((finished.folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["status"] == "completed"
    report = result["forgetting"]
    for name, split in (("source", "source"), ("control", "source_validation"), ("target", "test")):
        stored = lines(finished.folder / "predictions" / f"{split}.jsonl")
        assert report[name]["rows"] == len(stored)
        change = report[name]["metrics"][report[name]["metric"]]
        assert change["change"] == pytest.approx(change["after"] - change["before"], abs=1e-12)
    assert report["divergence"]["source"]["reverse_kl"] >= 0
    assert len(result["interpolation"]["points"]) == 6
    if isinstance(how.get("weight"), dict):
        assert result["budget"]["held"]
    found = comparison.compare([finished.folder])
    assert found["runs"][0]["target"]["rows"] == len(lines(finished.folder / "predictions" / "test.jsonl"))
    assert (finished.folder / "report.html").is_file()


@pytest.mark.parametrize("family", wide.all_but(["spans", "tags", "frames", "decoder"], ["tags", "decoder"]))
def test_a_cache_trains_the_same(tmp_path, family):
    values = two_domains(FAMILIES[family](tmp_path), anchor_on="source")
    values["training"] = {**values["training"], "optim": "sgd", "learning_rate": 1e-2, "interpolate": None}
    weights = []
    for origin in ("online", "cached"):
        made = {**values, "reference": {"from": origin}, "output": origin}
        finished = run.train(recipe.from_dict(made, tmp_path), display=QUIET)
        weights.append(finished.result["metrics"]["test"]["loss"])
    assert weights[0] == pytest.approx(weights[1], rel=1e-4)


def test_each_set_of_rows_has_a_cache_of_its_own(tiny, tmp_path):
    """A budget reads rows more than a number does: under one identity the second would be refused."""
    make_data(tmp_path)
    write_rows(tmp_path / "old.jsonl", reviews(20, seed=9))
    values = of_texts(tiny, source=("test",)) | {"reference": {"from": "cached"}}
    for number, weight in enumerate((0.5, {"max_kl": 0.1}, 0.5)):
        values["objective"] = {"weight": weight}
        assert train(values, tmp_path, output=f"out-{number}").result["status"] == "completed"
    folders = [f for f in (tmp_path / ".cache").iterdir() if (f / "manifest.json").is_file()]
    assert len(folders) == 2


def test_line_separators_in_texts_are_text(tiny, tmp_path):
    make_data(tmp_path)
    write_rows(
        tmp_path / "old.jsonl", [{**row, "place": f"a\u2028b{i % 2}"} for i, row in enumerate(reviews(20, seed=9))]
    )
    values = of_texts(tiny, source=("test",)) | {"evaluation": {"clusters": "place"}}
    finished = train(values, tmp_path)
    assert finished.result["forgetting"]["source"]["clusters"] == 2
    assert finished.result["forgetting"]["source"]["mcnemar"] is None
    assert comparison.compare([finished.folder, finished.folder])["runs"][1]["against"]["source"]["change"] == 0
