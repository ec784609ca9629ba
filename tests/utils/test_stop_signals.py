"""Signals over a call: the first asks, the second ends, and the caller's own are back afterwards."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from keeltune.utils import stop_signals
from keeltune.utils.progress import Display
from keeltune.utils.stop_signals import SIGNALS, StopAsked


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_asks_for_a_stop_and_the_second_ends_at_once(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stop_signals.listened():
        with pytest.raises(StopAsked, match=signal.Signals(number).name):
            send(number)
        assert stop_signals.asked()
        send(signal.SIGTERM)
    assert not stop_signals.asked()
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_what_is_handed_over_goes_on():
    heard = []
    with stop_signals.listened():
        with stop_signals.handed_to(lambda: heard.append(1)):
            send(signal.SIGTERM)
            heard.append(2)
        assert heard == [1, 2]
        with pytest.raises(StopAsked):
            stop_signals.raise_if_asked()
        with pytest.raises(StopAsked), stop_signals.handed_to(lambda: None):
            pass


def test_one_inside_another_is_the_outer_one():
    with stop_signals.listened():
        outer = signal.getsignal(signal.SIGTERM)
        with stop_signals.listened():
            assert signal.getsignal(signal.SIGTERM) == outer
        assert signal.getsignal(signal.SIGTERM) == outer


def test_no_library_holds_it_up():
    """`except Exception` is in many of them."""
    with pytest.raises(StopAsked), stop_signals.listened():
        try:
            send(signal.SIGINT)
        except Exception:
            pytest.fail("held up")


def test_what_was_ignored_stays_so(monkeypatch):
    """`nohup keeltune train` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals.listened():
            send(signal.SIGHUP)
            assert not stop_signals.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_nothing_changes():
    seen = []

    def work() -> None:
        with stop_signals.listened():
            seen.append((signal.getsignal(signal.SIGTERM), stop_signals.asked()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGTERM), False)]


def test_a_forked_worker_leaves_ctrl_c_to_its_parent():
    with stop_signals.listened():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)  # as the terminal sends it to both
            os.kill(os.getpid(), signal.SIGTERM)  # as its parent ends it
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_one_that_a_library_swallowed_stops_at_the_next_row():
    heard = []
    with stop_signals.listened(), Display(quiet=True).bar("rows", 3) as advance:
        with suppress(BaseException):
            send(signal.SIGTERM)
        with pytest.raises(StopAsked):
            advance(1)
    with stop_signals.listened(), stop_signals.handed_to(lambda: heard.append(1)):
        send(signal.SIGTERM)
        with Display(quiet=True).bar("steps", 3) as advance:
            advance(1)  # who was told goes on to where nothing is lost
    assert heard == [1]
