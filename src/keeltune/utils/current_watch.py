"""The watch over the group that this process belongs to, where it belongs to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keeltune.utils.errors import KeeltuneError
from keeltune.utils.rank_watch import RankWatch

_watch: RankWatch | None = None


def current() -> RankWatch | None:
    """The watch over this process's group; None outside of one."""
    return _watch


@contextmanager
def watched(watch: RankWatch) -> Iterator[RankWatch]:
    """Within: `watch` is the current one; the others are told when it is over."""
    global _watch
    _watch = watch
    try:
        yield watch
    finally:
        watch.close()
        _watch = None


@contextmanager
def operation(*, patient: bool = False) -> Iterator[None]:
    """Within: an operation of all processes. `patient`: one of them has something long to do before."""
    if _watch is None:
        yield
    else:
        with _watch.waiting(patient=patient):
            yield


@contextmanager
def other_ranks_errors() -> Iterator[None]:
    """Within: an error that has its cause in another process is raised as that cause."""
    try:
        yield
    except BaseException as error:
        if _watch is None or error is _watch.raised or (cause := _watch.cause(error)) is None:
            raise
        _watch.raised = cause
        raise cause from error


@contextmanager
def on_hard_end(act: Callable[[KeeltuneError], None]) -> Iterator[None]:
    """Within: what is still done where this process hangs and is ended, because another one is lost."""
    if (watch := _watch) is None:
        yield
        return
    watch.last_words.append(act)
    try:
        yield
    finally:
        watch.last_words.remove(act)


def wait_at_most(seconds: float) -> None:
    """How long one process may keep the others waiting in an operation."""
    if _watch is not None:
        _watch.patience = seconds
