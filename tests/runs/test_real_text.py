"""Real text, really learned: a floor under the quality, far below what the benchmarks reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.runs import run
from keeltune.utils.progress import Display

pytestmark = [pytest.mark.realdata, pytest.mark.slow]  # trains MiniLM on real rows: three quarters of a minute


def head(source: Path, target: Path, rows: int) -> str:
    target.write_text("".join(source.read_text("utf-8").splitlines(keepends=True)[:rows]), "utf-8")
    return str(target)


def test_sentiment_is_learned_and_the_anchor_forgets_less(real_data, minilm, tmp_path):
    films, tweets = real_data / "sentiment-sst2", real_data / "sentiment-airline"
    data = {"train": head(films / "train.jsonl", tmp_path / "films.jsonl", 1200), "validation": None}
    data["test"] = head(films / "test.jsonl", tmp_path / "films-test.jsonl", 300)
    base = {"task": "sentiment-analysis", "max_length": 48, "training": {"epochs": 1, "learning_rate": 2e-4}}

    def train(output: str, **spec) -> dict:
        return run.train(
            recipe.from_dict({**base, **spec, "output": output}, tmp_path), display=Display(quiet=True)
        ).result

    source = train("films", method="fine-tuning", model=str(minilm), data=data)
    assert source["metrics"]["test"]["accuracy"] > 0.80  # chance is 0.5
    assert source["metrics"]["before"]["test"] is None  # the head was new

    new = {"train": head(tweets / "train.jsonl", tmp_path / "tweets.jsonl", 300), "validation": None}
    new["test"] = head(tweets / "test.jsonl", tmp_path / "tweets-test.jsonl", 300)
    new["source"] = {"test": data["test"]}
    anchored = train("anchored", method="cross-domain", model="films", data=new)
    metrics = anchored["metrics"]
    assert metrics["test"]["accuracy"] > metrics["before"]["test"]["accuracy"]
    assert metrics["source"]["before"]["accuracy"] == source["metrics"]["test"]["accuracy"]
    assert metrics["source"]["after"]["accuracy"] > 0.75
    lines = (tmp_path / "anchored" / "predictions" / "source.jsonl").read_text("utf-8").splitlines()
    assert sum(json.loads(line)["score"] for line in lines) / 300 == metrics["source"]["after"]["accuracy"]
