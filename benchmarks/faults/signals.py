"""Signals at every moment of a run, and a second run in the folder of one that lives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.faults.bench import Bench, Trial, quiet
from tests.faults.server import Ended

RUN = "few steps"
SIGNALS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "SIGTERM": ({"do": "SIGTERM"}, (75,)),
    "SIGINT": ({"do": "SIGINT"}, (75,)),
    "SIGHUP": ({"do": "SIGHUP"}, (75,)),
    "SIGINT twice": ({"do": "SIGINT", "then": [[0.0, "SIGINT"]]}, (75, 130)),
    "SIGTERM, then SIGKILL": ({"do": "SIGTERM", "then": [[0.02, "SIGKILL"]]}, (75, -9)),
}
"""name: what is sent, and the statuses that a run may end with."""

LAST = "page"
"""After this a run is finished; a signal there may come too late."""


def trials(bench: Bench) -> Iterator[Trial]:
    moments = _first_and_last(bench.whole(RUN)["events"])
    for name in SIGNALS:
        for moment, number in moments:
            tried = partial(signalled, name, [moment, number])
            yield Trial("signals at every moment", f"{name}, {moment} {number}", tried)
    for moment in ("read", "step", "evaluation", "save", "conclude"):
        for option in ("", "--resume", "--overwrite"):
            yield Trial("two runs in one folder", f"{moment} {option}", partial(two_runs, moment, option))


def _first_and_last(events: list[list[Any]]) -> list[list[Any]]:
    """Each moment the first time that it comes, and the last."""
    last = dict(map(tuple, events))
    return [[moment, number] for moment, number in events if number in (1, last[moment])]


def signalled(name: str, at: list[Any], bench: Bench) -> str:
    sent, statuses = SIGNALS[name]
    with bench.fresh(RUN) as folder:
        ended = bench.train(folder, RUN, plans=[{"at": at, **sent}])
        allowed = (*statuses, 0) if at[0] == LAST else statuses
        wrong = [quiet(ended, *allowed), bench.unsound(folder)]
        if ended.status == 75:
            status = folder / "out" / "result.json"
            said = json.loads(status.read_text())["status"] if status.is_file() else "no result.json"
            wrong.append("" if said == "stopped" else f"the result says {said}")
            wrong.append("" if "--resume" in ended.text else f"no word of how to go on: {ended.last_line}")
        return "; ".join(filter(None, wrong)) or bench.goes_on(folder, RUN)


def two_runs(moment: str, option: str, bench: Bench) -> str:
    """The second is refused at once and changes nothing; when the first was killed, its lock is taken over."""
    with bench.fresh(RUN) as folder:
        reached = folder / "reached"
        plan = {"at": [moment, 1], "do": "hang", "reached": str(reached)}
        with bench.server.running(folder, ["train", "recipe.yaml"], plan, reached) as first:
            second = bench.train(folder, RUN, *([option] if option else []))
            wrong = quiet(second, 2) or _says(second, str(first))
        return wrong or bench.goes_on(folder, RUN)


def _says(ended: Ended, process: str) -> str:
    if ended.seconds > 5:
        return f"refused only after {ended.seconds:.0f} s"
    return "" if process in ended.text else f"process {process} is not named: {ended.last_line}"
