"""Ctrl-C, SIGTERM and SIGHUP over a whole call: the first asks for a stop, the second ends at once.

    with listened():                       the caller's own handlers are back afterwards
        ...                                a signal raises StopAsked, wherever the call is
        with handed_to(note):              a signal calls `note` instead, which stops where nothing is lost
            ...

`StopAsked` is no `Exception`, so that no library holds it up; who called `listened` says what it means.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopAsked(BaseException):
    """A signal asked for a stop; its text names the signal."""


class _Listener:
    """The signal that came, if any, and who is told of it."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.told: Callable[[], None] | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self.told is not None:
            self.told()
        else:
            raise self.error()

    def error(self) -> StopAsked:
        return StopAsked(signal.Signals(self.number or 0).name)


_listener: _Listener | None = None


@contextmanager
def listened(*, to_the_end: bool = False) -> Iterator[None]:
    """Within: the first signal raises `StopAsked`, a second one KeyboardInterrupt. One inside another is the outer one.

    to_the_end   whether the process ends afterwards: where it was asked to, no further signal disturbs its end

    SIGHUP stays ignored where it was (nohup); Ctrl-C does not, which a shell turns off for what it starts with `&`.
    Outside of the main thread nothing changes: Python has no handlers there.
    """
    global _listener
    if _listener is not None:
        yield
        return
    listener = _Listener()
    heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, listener.hear) for number in heard}
    except ValueError:  # not the main thread
        yield
        return
    _listener = listener
    try:
        yield
    finally:
        _listener = None
        ends = to_the_end and listener.number is not None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends else handler)


@contextmanager
def handed_to(note: Callable[[], None]) -> Iterator[None]:
    """Within: a signal calls `note` and lets the work go on. One that came earlier and was lost raises here."""
    raise_if_asked()
    if _listener is None:
        yield
        return
    listener = _listener
    listener.told = note
    try:
        yield
    finally:
        listener.told = None


def asked() -> bool:
    """Whether a signal has asked for a stop."""
    return _listener is not None and _listener.number is not None


def raise_if_asked() -> None:
    """Raises StopAsked where a signal has asked for a stop and the work went on all the same: a library may swallow
    what is raised inside its callbacks."""
    if _listener is not None and _listener.number is not None and _listener.told is None:
        raise _listener.error()


def _in_child() -> None:
    """A forked worker is ended by its parent: Ctrl-C, which reaches it too, is none of its business."""
    global _listener
    if _listener is not None:
        _listener = None
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)
