"""The command in this process: what it returns, without a Python that starts anew."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keeltune.cli import app


def keeltune(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit status of the command with these arguments, run in this process."""
    monkeypatch.setattr(sys, "argv", ["keeltune", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)
