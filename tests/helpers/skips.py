"""Where all tests must run (CI), a test that is skipped for a reason that is not foreseen here has failed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

FORESEEN = (
    r"the real data sets are not at ",
    r"transformers has no such class",
    r"needs the openssl command",
    r"needs a browser: ",
    r"come with keeltune\[tensorflow\]",  # a gigabyte, and 63 s of the set-up
    r"comes with keeltune\[ray\]",  # a quarter of a gigabyte; a cluster of it needs minutes on two busy cores
)
"""The reasons for which a test may be left out everywhere: what the set-up command does not bring with it."""


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true") or os.environ.get("KEELTUNE_CI") == "1"


def refuse_unforeseen(report: Any) -> None:
    """Makes a failure of a report of a skip, in CI, whose reason is not foreseen."""
    if not (report.skipped and in_ci()) or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(re.search(pattern, reason) for pattern in FORESEEN):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nIn CI every test runs: install what it lacks, or foresee this in {__file__}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    refuse_unforeseen(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    refuse_unforeseen(report)
    return report
