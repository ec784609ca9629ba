"""What is not the same when a run goes on: the recipe, the data, clock, versions, the place; and bad numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.bench import Bench, Trial, quiet

RUN = "few steps"
FIELDS = {
    "training.learning_rate": "0.02", "training.batch_size": "2", "training.max_steps": "7", "training.seed": "7",
    "training.weight_decay": "0.1", "training.lora": "{rank: 4}", "method": "cross-domain", "max_length": "24",
    "training.gradient_accumulation_steps": "2", "evaluation.metric": "macro_f1", "model": "teacher",
    "data.class_weights": "balanced",
}  # fmt: skip
"""Twelve fields, each with another value than the run was begun with."""

UNWRITABLE = {
    "somebody else's folder": ("out", {"user": 65534}),
    "somebody else's checkpoints": ("out/checkpoints", {"user": 65534}),
    "a read-only disk": ("out", {"read_only": "out"}),
}
"""name: the folder that is made, and what becomes of it; both need to be root."""

YEAR, DAY = 365 * 86_400, 86_400
CLOCKS = {"a day ahead": DAY, "a year back": -YEAR, "an hour back": -3600}


def trials(bench: Bench) -> Iterator[Trial]:
    for field in FIELDS:
        yield Trial("a changed recipe", field, partial(_field, field))
    for name in ("train", "validation"):
        for how in ("a row more", "another row"):
            yield Trial("changed data", f"{name}: {how}", partial(_data, name, how))
        yield Trial("changed data", f"{name}, while it trains", partial(_data_meanwhile, name))
    for when in CLOCKS:
        yield Trial("the clock", f"{when} at the start", partial(_clock, when, 0))
        yield Trial("the clock", f"{when} when it goes on", partial(_clock, 0, when))
    yield Trial("versions", "another torch", _versions)
    for moment in ("before", "micro-step", "conclude"):
        yield Trial("another place", moment, partial(_place, moment))
    for number in range(1, 7):
        yield Trial("gradients that are no numbers", f"step {number}", partial(poisoned, number))
    for how in UNWRITABLE:
        yield Trial("an output that cannot be written", how, partial(_unwritable, how))
    for moment in ("read", "build", "before", "micro-step", "evaluation", "conclude", "score"):
        yield Trial("out of memory", moment, partial(_memory, moment))


def _field(field: str, bench: Bench) -> str:
    """Refused, naming the field; with the recipe as it was the run goes on."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, "micro-step", 4), folder / "out")
        ended = bench.train(folder, RUN, "--resume", f"{field}={FIELDS[field]}")
        said = "" if field.removeprefix("training.") in ended.text else f"not named: {ended.text[-300:]}"
        return quiet(ended, 3) or said or bench.goes_on(folder, RUN)


def _data(name: str, how: str, bench: Bench) -> str:
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, "micro-step", 4), folder / "out")
        file = folder / f"{name}.jsonl"
        content = file.read_text()
        _change(file, how)
        ended = bench.train(folder, RUN, "--resume")
        said = "" if f"data.{name}" in ended.text else f"data.{name} is not named: {ended.text[-300:]}"
        file.write_text(content)
        return quiet(ended, 3) or said or bench.goes_on(folder, RUN)


def _change(file: Path, how: str) -> None:
    lines = file.read_text().splitlines()
    row = json.dumps({"text": "the film was not so good", "label": "positive"})
    file.write_text("\n".join([*lines, row] if how == "a row more" else [row, *lines[1:]]) + "\n")


def _data_meanwhile(name: str, bench: Bench) -> str:
    """The file is another when the second step begins: refused by the end of the training, naming it."""
    with bench.fresh(RUN) as folder:
        file = folder / f"{name}.jsonl"
        content = file.read_text()
        plan = {"at": ["step", 2], "do": {"append": [str(file), content.splitlines()[0] + "\n"]}}
        ended = bench.train(folder, RUN, plans=[plan])
        said = "" if file.name in ended.text else f"{file.name} is not named: {ended.text[-300:]}"
        file.write_text(content)
        return quiet(ended, 3) or said or bench.goes_on(folder, RUN)


def _clock(before: Any, after: Any, bench: Bench) -> str:
    """A clock that is wrong when a run starts, or when it goes on, changes nothing."""
    with bench.fresh(RUN) as folder:
        plan = {"at": ["micro-step", 4], "do": "SIGKILL", "clock": CLOCKS.get(before, 0)}
        bench.train(folder, RUN, plans=[plan])
        return bench.unsound(folder) or bench.goes_on(folder, RUN, plans=[{"clock": CLOCKS.get(after, 0)}])


def _versions(bench: Bench) -> str:
    """Another version of torch is said, and the run goes on."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, "micro-step", 4), folder / "out")
        ended = bench.train(folder, RUN, "--resume", plans=[{"versions": {"torch": "2.99.0"}}])
        return quiet(ended, 0) or ("" if "2.99.0" in ended.text else "nothing says that the version is another")


def _place(moment: str, bench: Bench) -> str:
    """A run whose folder was carried to another place, under another name, goes on there."""
    with bench.fresh(RUN) as folder:
        shutil.copytree(bench.state(RUN, moment), folder / "carried")
        ended = bench.train(folder, RUN, "--resume", "output=carried")
        wrong = quiet(ended, 0)
        (folder / "carried").rename(folder / "out")
        return wrong or bench.same_end(folder, RUN)


def poisoned(number: int, bench: Bench) -> str:
    """It ends before the update, says which step, and goes on from a checkpoint that is finite."""
    with bench.fresh(RUN) as folder:
        ended = bench.train(folder, RUN, plans=[{"at": ["micro-step", number], "do": "poison gradients"}])
        said = "" if f"step {number}" in ended.text else f"step {number} is not named: {ended.last_line[:200]}"
        return quiet(ended, 4) or said or bench.unsound(folder) or bench.goes_on(folder, RUN)


def _memory(moment: str, bench: Bench) -> str:
    """It says the next smaller batch, and goes on."""
    with bench.fresh(RUN) as folder:
        ended = bench.train(folder, RUN, plans=[{"at": [moment, 1], "do": "raise MemoryError"}])
        said: Callable[[str], str] = lambda word: "" if word in ended.text else f"no {word}: {ended.last_line[:200]}"  # noqa: E731
        return quiet(ended, 5) or said("batch_size") or bench.unsound(folder) or bench.goes_on(folder, RUN)


def _unwritable(how: str, bench: Bench) -> str:
    """Refused within five seconds, before a model is read, naming the place."""
    place, plan = UNWRITABLE[how]
    with bench.fresh(RUN) as folder:
        for path in (bench.folder, folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / place).mkdir(parents=True)
        if "/" in place:
            os.chown(folder / "out", plan["user"], -1)
        ended = bench.train(folder, RUN, plans=[{"at": ["build", 1], "do": "exit 98", **plan}])
        wrong = quiet(ended, 2) or ("" if ended.seconds < 5 else f"only after {ended.seconds:.0f} s")
        return wrong or ("" if str(folder / "out") in ended.text else f"not named: {ended.text[-300:]}")
