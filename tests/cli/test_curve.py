"""`keeltune curve`: what it hands on, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keeltune.advisor import learning_curve
from keeltune.cli.app import app
from tests.helpers.runs import make_data

CARD = {
    "metric": "accuracy",
    "points": [{"rows": 400, "value": 0.9, "interval": [0.88, 0.92]}],
    "twice": {"rows": 800, "value": 0.91, "interval": [0.885, 0.935]},
    "verdict": "we cannot tell whether more rows would help: …",
}
RECIPE = "task: sentiment-analysis\nmethod: fine-tuning\nmodel: m\ndata: {train: train.jsonl, test: test.jsonl}\n"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    make_data(tmp_path)
    (tmp_path / "r.yaml").write_text(f"{RECIPE}output: out\n", "utf-8")
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(learning_curve, "curve", lambda *given: calls.append(given) or CARD)
    return calls


def test_shares_and_draws_are_handed_on_and_the_forecast_is_a_line(tmp_path: Path, asked: list[tuple[Any, ...]]):
    call = ["curve", str(tmp_path / "r.yaml"), "--draws", "3", *(f"--share={s}" for s in (0.1, 0.2, 0.4, 0.8))]
    printed = CliRunner().invoke(app, call).output
    assert asked[0][1:] == ([0.1, 0.2, 0.4, 0.8], 3)
    assert "800, predicted" in printed and "0.8850 to 0.9350" in printed and CARD["verdict"] in printed


def test_json_is_the_card_alone(tmp_path: Path, asked: list[tuple[Any, ...]]):
    printed = CliRunner().invoke(app, ["curve", str(tmp_path / "r.yaml"), "--json"]).stdout
    assert json.loads(printed) == CARD and asked[0][1:] == (learning_curve.SHARES, None)


def test_no_draws_are_none(tmp_path: Path, asked: list[tuple[Any, ...]]):
    assert CliRunner().invoke(app, ["curve", str(tmp_path / "r.yaml"), "--draws", "0"]).exit_code == 2
    assert asked == []
