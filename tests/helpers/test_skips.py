"""A skip that nobody foresaw is a failure where all tests must run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers import skips

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "reason", "outcome"),
    [
        ({"CI": "true"}, "a library is not at hand", "failed"),
        ({"KEELTUNE_CI": "1"}, "a library is not at hand", "failed"),
        ({"CI": "true"}, "the real data sets are not at /data", "skipped"),
        ({}, "a library is not at hand", "skipped"),
    ],
)
def test_a_skip_without_a_foreseen_reason_fails_in_ci(monkeypatch, environment, reason, outcome):
    for name in ("CI", "KEELTUNE_CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report = SimpleNamespace(skipped=True, outcome="skipped", longrepr=("test_one.py", 3, f"Skipped: {reason}"))
    skips.refuse_unforeseen(report)
    assert report.outcome == outcome
    assert reason in str(report.longrepr)


def test_pytest_asks(tmp_path):
    (tmp_path / "test_one.py").write_text("import pytest\ndef test_one():\n    pytest.skip('no library')\n")
    asked = ["-p", "tests.helpers.skips", "--rootdir", tmp_path, "-c", os.devnull, tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked],
        env={**os.environ, "CI": "true", "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "1 failed" in done.stdout, done.stdout + done.stderr
