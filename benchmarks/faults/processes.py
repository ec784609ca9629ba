"""Data workers and ranks that die, hang, are stopped or fail: all processes end in time, and the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.faults.bench import Bench, Trial, quiet

RUN, RANKS = "few steps, workers", "sentiment, two ranks"
SECONDS = 30
"""Within so many everything has ended."""

WORKERS = {"exits": "exit 9", "is killed": "SIGKILL", "hangs": "hang", "fails": "raise ValueError"}
FATES = {"is killed": "SIGKILL", "is stopped": "SIGSTOP", "runs out of memory": "raise MemoryError"}


def trials(bench: Bench) -> Iterator[Trial]:
    for fate in WORKERS:
        for number in (1, 2):
            yield Trial("data workers", f"one {fate} at item {number}", partial(_worker, fate, number))
    for fate in FATES:
        for rank in (0, 1):
            for moment in (["build", 1], ["micro-step", 3], ["evaluation", 1], ["save", 1], ["conclude", 1]):
                yield Trial("ranks", f"{rank} {fate}, {moment[0]}", partial(_rank, fate, rank, moment))


def _worker(fate: str, number: int, bench: Bench) -> str:
    with bench.fresh(RUN) as folder:
        plan = {"at": ["item", number], "do": WORKERS[fate]}
        ended = bench.train(folder, RUN, plans=[plan], limit=90)
        statuses = (1,) if fate == "fails" else (75, 5)  # an error that nobody foresaw is a bug, in a worker too
        wrong = quiet(ended, *statuses) or ("" if ended.seconds < SECONDS else f"only after {ended.seconds:.0f} s")
        wrong = wrong or ("" if "worker" in ended.text else f"no worker is named: {ended.last_line}")
        return wrong or bench.goes_on(folder, RUN)


def _rank(fate: str, rank: int, moment: list[Any], bench: Bench) -> str:
    with bench.fresh(RANKS) as folder:
        plan = {"at": moment, "do": FATES[fate]}
        ended = bench.train(folder, RANKS, plans=[*({} for _ in range(rank)), plan], limit=60)
        wrong = [bench.unsound(folder)]
        if ended.seconds > SECONDS:
            wrong.append(f"only after {ended.seconds:.0f} s")
        if "Traceback" in ended.text:
            wrong.append("a traceback")
        if fate != "runs out of memory" and f"rank {rank}" not in ended.text:
            wrong.append(f"rank {rank} is not named: {ended.last_line[:200]}")
        return "; ".join(filter(None, wrong)) or bench.goes_on(folder, RANKS)
