"""The command in this process: what it returns, without a Python that starts anew."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from keeltune.cli import app
from keeltune.utils import stop_signals


def keeltune(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit status of the command with these arguments, run in this process, which goes on to hear signals."""
    monkeypatch.setattr(sys, "argv", ["keeltune", *map(str, arguments)])
    handlers = {number: signal.getsignal(number) for number in stop_signals.SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            app.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(ended.value.code or 0)
