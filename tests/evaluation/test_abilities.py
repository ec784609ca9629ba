"""Named sets of the source domain: each is scored by its own task before and after, and nothing of them is learnt."""

from __future__ import annotations

import json

import pytest

from keeltune.runs import inference
from keeltune.utils.errors import UserError
from tests.helpers import families
from tests.helpers.runs import lines, train, weights, write_rows

CHATS = [
    {"prompt": "say it again", "completion": "it again"},
    {"prompt": "say no more", "completion": "no more"},
]


def made(folder, architecture="gpt2", **test):
    """A decoder that learns summaries, and is asked for conversations too."""
    spec = families.spec(folder, "summarization", architecture, "fine-tuning")
    write_rows(folder / "chats.jsonl", CHATS)
    named = {"name": "chats", "data": "chats.jsonl", "task": "text-generation", "max_new_tokens": 5} | test
    spec["data"] = {**spec["data"], "source": {"test": [named]}}
    return spec | {"output": "out"}


def test_a_decoders_other_task_is_scored_as_evaluate_scores_it(tmp_path):
    """Before training as the base folder by `keeltune evaluate`, after it as the saved one."""
    spec = made(tmp_path)
    done = train(spec, tmp_path)
    found = done.result["abilities"]["chats"]
    assert found["task"] == "text-generation" and found["metric"] == "loss" and found["rows"] == 2
    for when, model in (("before", tmp_path / spec["model"]), ("after", done.model)):
        alone = inference.evaluate(model, tmp_path / "chats.jsonl", task="text-generation")["metrics"]
        assert found["metrics"]["loss"][when] == pytest.approx(alone["loss"], rel=1e-6)
    change = found["metrics"]["loss"]
    assert change["change"] == pytest.approx(change["after"] - change["before"])
    assert change["before"] != change["after"]
    written = lines(done.folder / "predictions" / "before" / "abilities" / "chats.jsonl")
    assert [line["gold"] for line in written] == [row["completion"] for row in CHATS]
    assert "chats (text-generation)" in (done.folder / "report.html").read_text()


def test_what_is_learnt_and_saved_is_the_same_without_named_sets(tmp_path):
    """Neither weights, predictions nor the generation config of the model know of them."""
    spec = made(tmp_path)
    with_sets = train(spec, tmp_path)
    without = train({**spec, "data": {**spec["data"], "source": {}}, "output": "plain"}, tmp_path)
    assert all(weights(with_sets)[name].equal(weight) for name, weight in weights(without).items())
    for file in ("model/generation_config.json", "predictions/validation.jsonl"):
        if (without.folder / file).is_file():
            assert (with_sets.folder / file).read_bytes() == (without.folder / file).read_bytes()
    assert without.result["abilities"] is None


def test_an_adapter_writes_as_its_own_task_asks_after_another_was_scored(tmp_path):
    spec = made(tmp_path)
    spec["training"] = {**spec["training"], "lora": {"rank": 2}}
    done = train(spec, tmp_path)
    plain = train({**spec, "data": {**spec["data"], "source": {}}, "output": "plain"}, tmp_path)
    saved = [json.loads((run.model / "generation_config.json").read_text()) for run in (done, plain)]
    assert saved[0] == saved[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "sentiment-analysis"}, "the head of summarization"),
        ({"task": "speech-recognition"}, "AutoModelForSpeechSeq2Seq|architecture of type"),
        ({"task": "sumarization"}, "sumarization"),
        ({"data": "chat.jsonl"}, "did you mean"),
        ({"columns": {"prompt": "asked"}}, "asked"),
        ({"name": "Chats!"}, "name"),
    ],
)
def test_a_set_that_cannot_be_answered_is_refused_with_its_place(tmp_path, change, said):
    with pytest.raises(UserError, match=said) as refused:
        train(made(tmp_path, **change), tmp_path)
    assert all(problem.where and problem.fix for problem in refused.value.problems)


def test_seeds_are_pooled(tmp_path):
    """Means over seeds, and an interval around them."""
    spec = made(tmp_path)
    spec["training"] = {**spec["training"], "seed": [0, 1]}
    pool = train(spec, tmp_path)
    seeds = [
        json.loads((part / "result.json").read_text())["abilities"]["chats"]["metrics"]["loss"] for part in pool.parts
    ]
    found = pool.result["abilities"]["chats"]["metrics"]["loss"]
    assert seeds[0]["after"] != seeds[1]["after"]
    assert found["after"] == pytest.approx((seeds[0]["after"] + seeds[1]["after"]) / 2)
    low, high = found["interval"]
    assert low <= found["change"] <= high
    assert "chats (text-generation)" in (pool.folder / "report.html").read_text()


def test_a_set_of_which_every_row_is_skipped_is_refused(tmp_path):
    spec = made(tmp_path)
    (tmp_path / "chats.jsonl").write_text('{"prompt": "say", "completion": 3}\n')
    spec["data"]["bad_rows"] = "skip"
    with pytest.raises(UserError, match="every row of which is skipped") as refused:
        train(spec, tmp_path)
    assert "data.source.test" in refused.value.problems[0].field


def test_two_sets_of_a_name_are_refused(tmp_path):
    spec = made(tmp_path)
    spec["data"]["source"]["test"] = [*spec["data"]["source"]["test"], {"name": "chats", "data": "other.jsonl"}]
    with pytest.raises(UserError, match="each name once"):
        train(spec, tmp_path)
