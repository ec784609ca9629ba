"""A run is killed at a random moment, or five times in a row, and goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.faults.bench import Bench, Trial
from tests.faults.workloads import WORKLOADS

EACH = 20
"""Random kills of each workload."""

SHARES = {"steps": 0.5, "evaluation": 0.15, "save": 0.25, "rest": 0.1}
"""How often which part of a run is hit."""

STEPS, EVALUATION = {"step", "micro-step"}, {"evaluation", "best"}


def trials(bench: Bench) -> Iterator[Trial]:
    for name in WORKLOADS:
        for number in range(EACH):
            yield Trial("random kills", f"{name} {number}", partial(killed_once, name, number))
    for name in WORKLOADS:
        yield Trial("chains of five kills", name, partial(killed_five_times, name))


def killed_once(name: str, number: int, bench: Bench) -> str:
    dice = random.Random(f"{name} {number}")
    with bench.fresh(name) as folder:
        plan = _plan(bench.whole(name)["events"], dice, str(folder / "out"))
        plans: list[dict[str, Any]] = [plan]
        if WORKLOADS[name].ranks > 1 and dice.random() < 0.5 and isinstance(plan["do"], str):
            plans.insert(0, {})  # a moment that comes to every rank
        ended = bench.train(folder, name, plans=plans, limit=60)
        if -9 not in ended.statuses:
            return f"{plan} did not kill it: {ended.statuses} {ended.last_line[:200]}"
        alone = "a rank that was left did not end within 60 s; " if ended.seconds >= 60 else ""
        return alone + (bench.unsound(folder) or bench.goes_on(folder, name))


def _plan(events: list[list[Any]], dice: random.Random, output: str) -> dict[str, Any]:
    """A kill at one of these moments, or at one of the first file calls of a save."""
    part = dice.choices([*SHARES], [*SHARES.values()])[0]
    known = STEPS | EVALUATION | {"save", "item"}
    chosen = {"steps": STEPS, "evaluation": EVALUATION, "save": {"save"}}.get(part)
    at = dice.choice([e for e in events if (e[0] in chosen if chosen else e[0] not in known)] or events)
    if part == "save" and at[0] == "save":
        return {"at": at, "do": {"shim": [output, "kill", dice.randint(1, 16), False, None]}}
    return {"at": at, "do": "SIGKILL"}


def killed_five_times(name: str, bench: Bench) -> str:
    dice = random.Random(name)
    moments = [["micro-step", 2], ["save", 1], ["micro-step", 3], ["evaluation", 1], ["step", 2], ["conclude", 1]]
    with bench.fresh(name) as folder:
        wrong, kills = [], 0
        for _ in range(12):
            plan = {"at": dice.choice(moments), "do": "SIGKILL"}
            ended = bench.train(folder, name, "--resume", plans=[plan], limit=60)
            kills += -9 in ended.statuses
            wrong += [bench.unsound(folder)]
            if kills == 5 or -9 not in ended.statuses:
                break
        return "; ".join(filter(None, wrong)) or bench.goes_on(folder, name)
