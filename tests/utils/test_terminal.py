"""A terminal that is gone, or a pipe without a reader, ends nobody's work."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal


class Gone(io.StringIO):
    """A stream that cannot be written to any more."""

    def __init__(self, number: int, terminal: bool):
        super().__init__()
        self.number, self.terminal = number, terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        raise OSError(self.number, "gone")

    def flush(self) -> None:
        raise OSError(self.number, "gone")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_messages_are_lost_and_nothing_else(monkeypatch, number, terminal):
    monkeypatch.setattr(sys, "stderr", Gone(number, terminal))
    display = Display(plain_every=0)
    display.say("step 1")
    with display.bar("training", 2) as advance:
        advance(1)
        advance(1, "loss 0.1")


def test_messages_go_to_whatever_stderr_is_by_then(monkeypatch, capsys):
    terminal = Terminal(stderr=True)
    terminal.print("one")
    assert capsys.readouterr().err == "one\n"
    other = io.StringIO()
    monkeypatch.setattr(sys, "stderr", other)
    terminal.print("two")
    assert other.getvalue() == "two\n"
    assert not terminal.is_terminal
