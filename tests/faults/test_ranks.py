"""Of processes that train together, one that is killed, stopped, stuck or fails ends all: soon, with one message."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed

from keeltune.utils import current_watch, heartbeat, process_group, rank_watch
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Diverged, KeeltuneError, Problem, Stopped, UserError
from tests.helpers import processes

FAST = 0.1
"""Seconds of a round here."""


def fault(what: str, victim: int) -> None:
    """A process of a group in which `victim` meets a fault, as the command runs it."""
    heartbeat.ROUND = FAST
    if what == "stopped before the other one hears of it" and int(os.environ["RANK"]) != victim:
        heard = heartbeat.Heartbeat._run
        heartbeat.Heartbeat._run = lambda self: (time.sleep(1), heard(self))[1]
    try:
        with process_group.joined():
            current_watch.wait_at_most(1.0)
            with current_watch.on_hard_end(lambda error: error.add_note("last words")):
                _work(what, int(os.environ["RANK"]) == victim)
    except KeeltuneError as error:
        if not error.said:
            print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_status)


def _work(what: str, at_fault: bool) -> None:
    torch.distributed.barrier()  # both are there
    time.sleep(0 if "before" in what else 3 * FAST)
    if at_fault:
        if what in ("killed", "killed while others compute"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what.startswith("stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "diverged":
            raise Diverged("the loss is NaN")
        if what in ("stuck", "long"):
            time.sleep(2)
    if what == "all fail alike":
        raise UserError(Problem("recipe.yaml", "data", "found", "expected", "mend"))
    if what == "killed while others compute":
        time.sleep(30)
    with current_watch.operation(patient=what == "long"):
        torch.distributed.all_reduce(torch.ones(3))


CASES = {
    "killed": (75, "is gone: it was killed"),
    "killed while others compute": (75, "is gone: it was killed"),
    "stopped": (75, "had been stopped"),
    "stopped before the other one hears of it": (75, "had been stopped"),
    "stuck": (75, "has kept the others waiting"),
    "diverged": (4, "the loss is NaN"),
    "all fail alike": (2, "recipe.yaml"),
    "long": (0, ""),
}


@pytest.mark.parametrize(("what", "victim"), [*((what, 1) for what in CASES), ("killed", 0), ("stopped", 0),
                                              ("stopped before the other one hears of it", 0)])  # fmt: skip
def test_all_end_with_one(what, victim, tmp_path):
    """Rank 0 holds the store through which they hear of each other."""
    status, said = CASES[what]
    begun = time.monotonic()
    done = processes.ranks(fault, what, victim, folder=tmp_path)
    assert time.monotonic() - begun < 30
    lost = what not in ("diverged", "all fail alike", "long", "stuck")
    for rank, one in enumerate(done):
        killed = lost and rank == victim
        assert one.process.exitcode == (-signal.SIGKILL if killed else status), one.text
        assert "Traceback" not in one.text
    text = "".join(one.text for one in done)
    assert text.count(said) == 1 or not said, text
    assert text.count("last words") == (what in ("killed while others compute", "stuck"))
    if lost:
        assert f"rank {victim} of 2" in text
        assert "--resume" in text


class Shelf:
    """A store in one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def add(self, key: str, amount: int) -> int:
        self.values[key] = str(int(self.values.get(key, 0)) + amount)
        return int(self.values[key])


@pytest.fixture
def pair(monkeypatch):
    """Two watches over each other in this process, whose threads do not run: rounds are made by hand."""
    monkeypatch.setattr(heartbeat, "ROUND", 0.01)
    shelf = Shelf()
    watches = [rank_watch.RankWatch(heartbeat.Heartbeat(rank, 2, shelf, "here"), False, 1.0) for rank in (0, 1)]
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"ended with {status}"))
    return watches


def test_a_process_of_another_machine_is_given_up_when_it_is_silent(pair):
    one, other = pair
    other.heartbeat.own.process = heartbeat.ProcessName("another machine", 1, 1)
    other.heartbeat.exchange()
    for _ in range(rank_watch.SILENCE):
        one.heartbeat.exchange()
        one.judge()
        assert one.verdict is None
    one.heartbeat.exchange()
    one.judge()
    one.judge()
    assert "rank 1 of 2" in one.verdict.text
    assert one.verdict.status == Stopped.exit_status


def test_a_signal_does_not_hide_who_was_lost(pair):
    """torchrun asks the others to stop as soon as it misses one: before it is known here who that is."""
    one, _ = pair

    def judged(number, frame):
        one.verdict = heartbeat.Verdict(1, 75, "rank 1 of 2 is gone", raised=False)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, judged)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        cause = one.cause(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert str(cause) == "rank 1 of 2 is gone"
    assert one.cause(ValueError("whatever")).exit_status == 75  # once it is known, it is behind all that follows
    assert one.cause(Diverged("NaN here")) is None


def test_a_group_that_was_stopped_as_a_whole_goes_on(pair):
    """Nobody's rounds went on, so that nobody was silent."""
    one, other = pair
    other.heartbeat.own.process = heartbeat.ProcessName("another machine", 1, 1)
    for _ in range(3):
        other.heartbeat.exchange()
        one.heartbeat.exchange()
        one.judge()
        time.sleep(0.3)  # thirty rounds
    assert one.verdict is None


def test_a_fault_of_the_watch_comes_up_in_the_next_operation(pair, monkeypatch):
    one, _ = pair
    monkeypatch.setattr(one, "judge", lambda: 1 / 0)
    with current_watch.watched(one):
        one.start()
        time.sleep(0.1)
        with pytest.raises(RuntimeError, match="watch over the other processes") as raised, current_watch.operation():
            pass
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_one_process_is_no_group():
    assert world_size() == 1
    with process_group.joined():
        assert current_watch.current() is None


def test_the_group_says_who_did_not_come(monkeypatch, tmp_path):
    monkeypatch.setattr(process_group, "JOINING", 1.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(_free_port()))
    with pytest.raises(Stopped, match="not all 2 processes were there within 1 seconds"), process_group.joined():
        pass


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_files_are_named(tmp_path: Path):
    """What `/proc` says of a process that was stopped, and of one that is gone."""
    forked = processes.start(time.sleep, 30, output=tmp_path / "log")
    pid = forked.process.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    name = heartbeat.ProcessName(heartbeat.this_process().place, pid, int(fields[19]))
    assert name.state() == "alive"
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 5
    while name.state() != "stopped" and time.monotonic() < until:
        time.sleep(0.01)
    assert name.state() == "stopped"
    assert heartbeat.ProcessName(name.place, pid, name.started + 1).state() == "gone"  # its number, given again
    assert heartbeat.ProcessName("another machine", pid, name.started).state() == "unknown"
    name.kill()
    forked.process.join()
    assert name.state() == "gone"
