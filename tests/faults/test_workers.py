"""A data worker that dies, hangs, is stopped or raises ends the run soon, with its number and rows; nobody stays."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import time
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.runs import run
from keeltune.tasks.common.example import Example
from keeltune.training import data_workers
from keeltune.training.batch_plan import Plan
from keeltune.utils.errors import KeeltuneError, OutOfResources, Problem, StateRefused, Stopped
from tests.helpers.interruption import same
from tests.helpers.runs import QUIET, make_data, spec_of


@pytest.fixture
def spec(tiny, tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.setattr(data_workers, "ROUND", 0.1)
    given = spec_of("fine-tuning", tiny("bert"))
    given["training"] |= {"dataloader_num_workers": 2, "dataloader_timeout": 1, "epochs": 2, "save_steps": 1}
    given["data"].pop("test")
    return given


def train(spec: dict, folder: Path, **how):
    return run.train(recipe.from_dict(spec, folder), display=QUIET, **how)


def fail_at(monkeypatch, item: int, fault) -> None:
    """In a worker: `fault()` before the item of the second epoch is made."""
    real, parent = Plan.__getitem__, os.getpid()

    def faulty(self, number):
        if os.getpid() != parent and self.epoch == 1 and number == item:
            fault()
        return real(self, number)

    monkeypatch.setattr(Plan, "__getitem__", faulty)


def raises(error):
    def fault():
        raise error

    return fault


REPLACED = Problem("a.jsonl:7", "image", "another", "the one that was read", "restore it")

FAULTS = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), Stopped, "died"),
    "exits": (lambda: os._exit(0), Stopped, "died"),
    "hangs": (lambda: time.sleep(60), Stopped, "did nothing for 1 seconds"),
    "stopped": (lambda: os.kill(os.getpid(), signal.SIGSTOP), Stopped, "did nothing for 1 seconds"),
    "raises": (raises(ValueError("a broken picture")), KeeltuneError, "ValueError: a broken picture"),
    "memory": (raises(MemoryError()), OutOfResources, "out of memory"),
    "refuses": (
        raises(StateRefused(REPLACED)),
        StateRefused,
        "a.json",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_worker_that_fails_is_named_with_its_rows(spec, tmp_path, monkeypatch, what):
    fault, kind, said = FAULTS[what]
    with monkeypatch.context() as patch:
        fail_at(patch, 1, fault)
        begun = time.monotonic()
        with pytest.raises(kind) as raised:
            train(spec, tmp_path)
    assert time.monotonic() - begun < 30
    text = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert said in text
    assert re.search(r"data worker 1\b.*at step 2 of the epoch, rows .*train\.jsonl:\d+ \([0-9a-f]{12}\)", text), text
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
    if what == "hangs":
        finished = train(spec, tmp_path, resume=True)
        assert same(finished.folder, train(spec | {"output": "whole"}, tmp_path).folder)


def test_a_worker_that_works_may_take_its_time(spec, tmp_path, monkeypatch):
    def slow():
        until = time.process_time() + 1.3
        while time.process_time() < until:
            pass

    fail_at(monkeypatch, 1, slow)
    assert train(spec, tmp_path).result["status"] == "completed"


def test_a_worker_whose_batch_was_lost_on_the_way():
    """It made the batch and waits for the next one; the training waits for this one."""
    workers = data_workers.DataWorkers(make_plan(), 1)
    workers.patience = 0.5
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    workers.board[data_workers.PROCESS], workers.board[data_workers.STARTED] = child.pid, int(fields[19])
    workers.waiting.set()
    with pytest.raises(Stopped, match="did nothing"), workers.watched():
        child.join(20)
        raise RuntimeError(f"DataLoader worker (pid {child.pid}) is killed by signal: Killed.")
    assert child.exitcode == -signal.SIGKILL


def test_a_full_shared_memory_is_named():
    workers = data_workers.DataWorkers(make_plan(), 1)
    with pytest.raises(OutOfResources, match=r"/dev/shm.*dataloader_num_workers: 0"), workers.watched():
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error.")
    with pytest.raises(OutOfResources, match="/dev/shm"), workers.watched():
        raise RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)")
    with pytest.raises(RuntimeError, match="shapes differ"), workers.watched():
        raise RuntimeError("shapes differ")


def test_a_fault_of_the_watch_comes_up_with_the_next_batch(monkeypatch):
    workers = data_workers.DataWorkers(make_plan(), 1)
    monkeypatch.setattr(workers, "_process", lambda worker: 1 / 0)
    workers.run_watch()
    with pytest.raises(RuntimeError, match="watch over the data workers"):
        next(workers.take(iter([1]), 1))


def make_plan() -> Plan:
    rows = [Example({}, [0], [1.0], f"{n:064x}", 3) for n in range(4)]
    return Plan(rows, [], batch_size=2, micro_batches=1, seed=0, collate=lambda examples: {"examples": examples})


def test_problems_survive_the_way_from_a_worker():
    error = StateRefused(REPLACED)
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
