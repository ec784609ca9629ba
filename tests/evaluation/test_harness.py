"""Tasks of the lm-evaluation-harness, over local files: its numbers are those of a count by hand, before and after."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from keeltune.models import libraries
from keeltune.training.preparation import harness_tasks
from keeltune.utils.errors import UserError
from tests.helpers import families
from tests.helpers.runs import lines, train, weights, write_rows

QUESTIONS = [
    {"question": "the film is", "choices": ["good", "a plot of a film", "bad"], "answer": 0},
    {"question": "a very long", "choices": ["dull", "and dull plot", "not"], "answer": 1},
    {"question": "it was", "choices": ["fine and short", "of", "very very good"], "answer": 0},
    {"question": "i was in", "choices": ["the film", "bad", "dull dull dull"], "answer": 0},
    {"question": "not", "choices": ["plot", "good", "the"], "answer": 1},
]
TASK = {
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{question}}",
}
KINDS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(autouse=True)
def _harness(monkeypatch, tmp_path):
    """What `datasets` keeps lies in the test's folder, and the harness's own ten thousand tasks are not listed."""
    pytest.importorskip("lm_eval", reason="comes with keeltune[lm-eval]")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "kept"))
    whole = harness_tasks.index_of
    monkeypatch.setattr(harness_tasks, "index_of", lambda folder, **_: whole(folder, built_in=False))


def made(folder, *kinds, architecture="gpt2", task="summarization", **fields):
    """A decoder that learns summaries, and is asked for the harness's tasks."""
    spec = families.spec(folder, task, architecture, "fine-tuning")
    write_rows(folder / "questions.jsonl", QUESTIONS)
    (folder / "tasks").mkdir(exist_ok=True)
    files = {"data_files": {"test": str(folder / "questions.jsonl")}}
    for kind in KINDS:
        text = json.dumps({"task": f"own_{kind}", **TASK, "dataset_kwargs": files, **KINDS[kind]})  # JSON is YAML
        (folder / "tasks" / f"{kind}.yaml").write_text(text)
    asked = {"tasks": [f"own_{kind}" for kind in kinds], "include_path": "tasks", **fields}
    spec["data"] = {**spec["data"], "source": {"lm_eval": asked}}
    return spec | {"output": "out"}


def log_likelihoods(model, text: str, ending: str = "", start: list[int] | None = None) -> list[float]:
    """log P of the ending's tokens after the text, by stock transformers; of all tokens but `start` without one."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    decoder = AutoModelForCausalLM.from_pretrained(model).eval()
    given = tokenizer.encode(text) if start is None else start
    whole = tokenizer.encode(text + ending) if start is None else [*start, *tokenizer.encode(text)]
    with torch.no_grad():
        log_probs = decoder(torch.tensor([whole])).logits[0].log_softmax(-1)
    return [log_probs[i - 1, whole[i]].item() for i in range(len(given), len(whole))]


def test_choices_are_scored_as_by_hand(tmp_path):
    """Before training on the base folder, after it on the saved one, in the harness's own words and numbers."""
    spec = made(tmp_path, "choices")
    done = train(spec, tmp_path)
    found = done.result["abilities"]["own_choices"]
    assert (found["task"], found["metric"], found["rows"]) == ("lm_eval", "acc", len(QUESTIONS))
    assert found["harness"]["num_fewshot"] == 0
    for when, model, part in (("before", tmp_path / spec["model"], "before"), ("after", done.model, "")):
        right, normed, chosen = 0, 0, []
        for row in QUESTIONS:
            sums = [sum(log_likelihoods(model, row["question"], f" {choice}")) for choice in row["choices"]]
            by_length = [s / len(choice) for s, choice in zip(sums, row["choices"], strict=True)]
            chosen.append(sums.index(max(sums)))
            right += chosen[-1] == row["answer"]
            normed += by_length.index(max(by_length)) == row["answer"]
        assert found["metrics"]["acc"][when] == pytest.approx(right / len(QUESTIONS))
        assert found["metrics"]["acc_norm"][when] == pytest.approx(normed / len(QUESTIONS))
        written = lines(done.folder / "predictions" / part / "abilities" / "own_choices.jsonl")
        assert [line["prediction"] for line in written] == chosen
        assert [line["gold"] for line in written] == [row["answer"] for row in QUESTIONS]
    accuracy = found["metrics"]["acc"]
    assert accuracy["change"] == pytest.approx(accuracy["after"] - accuracy["before"])
    assert accuracy["interval"][0] <= accuracy["change"] <= accuracy["interval"][1]
    assert len(found["lost"]) - found["won"] == round(-accuracy["change"] * len(QUESTIONS))
    assert "own_choices (lm_eval)" in (done.folder / "report.html").read_text()
    inputs = done.result["digests"]["inputs"]["data.source.lm_eval"]
    assert [entry["file"] for entry in inputs] == ["../tasks/choices.yaml"]


def test_perplexities_and_written_answers_beside_an_adapter(tmp_path):
    """What is learnt and saved is the same as without them, random state and generation config included."""
    spec = made(tmp_path, "texts", "written", limit=3)
    spec["training"] = {**spec["training"], "lora": {"rank": 2}}
    done = train(spec, tmp_path)
    plain = train({**spec, "data": {**spec["data"], "source": {}}, "output": "plain"}, tmp_path)
    assert all(weights(done)[name].equal(weight) for name, weight in weights(plain).items())
    saved = [(run.model / "generation_config.json").read_bytes() for run in (done, plain)]
    assert saved[0] == saved[1]
    assert plain.result["abilities"] is None

    found = done.result["abilities"]["own_texts"]
    for when, model in (("before", tmp_path / spec["model"]), ("after", done.model)):
        tokenizer = AutoTokenizer.from_pretrained(model)
        start = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        total = sum(sum(log_likelihoods(model, row["question"], start=start)) for row in QUESTIONS[:3])
        words = sum(len(row["question"].split()) for row in QUESTIONS[:3])
        size = sum(len(row["question"]) for row in QUESTIONS[:3])
        assert found["metrics"]["word_perplexity"][when] == pytest.approx(math.exp(-total / words), rel=1e-4)
        assert found["metrics"]["bits_per_byte"][when] == pytest.approx(-total / size / math.log(2), rel=1e-4)
    assert (found["rows"], found["retention"], found["lost"]) == (3, None, None)
    for metric in found["metrics"].values():
        assert metric["interval"][0] <= metric["change"] <= metric["interval"][1]

    answers = lines(done.folder / "predictions" / "abilities" / "own_written.jsonl")
    tokenizer, decoder = AutoTokenizer.from_pretrained(done.model), AutoModelForCausalLM.from_pretrained(done.model)
    for line, row in zip(answers, QUESTIONS, strict=False):
        ids = tokenizer(row["question"], return_tensors="pt")["input_ids"]
        said = decoder.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        assert line["prediction"] == tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).split(".")[0]


def test_seeds_are_pooled(tmp_path):
    spec = made(tmp_path, "choices", "texts")
    spec["training"] = {**spec["training"], "seed": [0, 1]}
    pool = train(spec, tmp_path)
    for name, metric in (("own_choices", "acc"), ("own_texts", "word_perplexity")):
        seeds = [
            json.loads((part / "result.json").read_text())["abilities"][name]["metrics"][metric] for part in pool.parts
        ]
        found = pool.result["abilities"][name]["metrics"][metric]
        assert found["after"] == pytest.approx((seeds[0]["after"] + seeds[1]["after"]) / 2)
        low, high = found["interval"]
        assert low <= found["change"] <= high
    assert "own_texts (lm_eval)" in (pool.folder / "report.html").read_text()


def refusal(spec, folder) -> str:
    with pytest.raises(UserError) as refused:
        train(spec, folder)
    assert all(problem.where and problem.fix and "lm_eval" in problem.field for problem in refused.value.problems)
    assert not (folder / "out" / "model").exists()
    return str(refused.value)


def test_what_cannot_be_asked_is_refused_with_its_place(tmp_path, monkeypatch):
    spec = made(tmp_path, "choices")
    asked = spec["data"]["source"]["lm_eval"]

    def refused(**changes) -> str:
        return refusal({**spec, "data": {**spec["data"], "source": {"lm_eval": asked | changes}}}, tmp_path)

    said = refused(tasks=["own_choises", "own_texts"])
    assert '"own_choises"' in said and "the nearest: own_choices" in said
    assert "folder of task files" in refused(include_path="task")
    (tmp_path / "tasks" / "far.yaml").write_text(
        json.dumps({"task": "own_far", **TASK, **KINDS["choices"], "dataset_path": "keeltune/none"})
    )
    assert "a hub that this machine reaches" in refused(tasks=["own_far"])
    (tmp_path / "tasks" / "wrong.yaml").write_text(
        json.dumps({**json.loads((tmp_path / "tasks" / "choices.yaml").read_text()), "task": "own_wrong",
                    "doc_to_choice": "{{choices.first}}"})
    )  # fmt: skip
    assert '"own_wrong", which was not read: "UndefinedError' in refused(tasks=["own_wrong"])
    monkeypatch.setattr(libraries, "installed", lambda module: module != "lm_eval")
    assert "pip install 'keeltune[lm-eval]'" in refused()


@pytest.mark.parametrize(
    ("task", "architecture", "said"),
    [
        ("summarization", "t5", "a decoder"),
        ("sentiment-analysis", "bert", "writes none"),
    ],
)
def test_other_families_are_refused(tmp_path, task, architecture, said):
    assert said in refusal(made(tmp_path, "choices", architecture=architecture, task=task), tmp_path)


def test_a_name_that_a_set_has_is_refused(tmp_path):
    spec = made(tmp_path, "choices")
    write_rows(tmp_path / "chats.jsonl", [{"prompt": "say it again", "completion": "it again"}])
    spec["data"]["source"]["test"] = [{"name": "own_choices", "data": "chats.jsonl", "task": "text-generation"}]
    assert "rename that set" in refusal(spec, tmp_path)
