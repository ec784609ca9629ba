"""Short ordinary runs of the arms: paired in their seeds, resumable, scored on validation rows alone."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeltune.advisor.candidates import Arm, without_columns
from keeltune.advisor.verdict import Scored
from keeltune.evaluation.scores import scores_of
from keeltune.evaluation.seed_bootstrap import clustered, draws
from keeltune.recipe import from_dict
from keeltune.recipe.fields import Recipe
from keeltune.reports.findings import forgetting, overruled_labels, teacher
from keeltune.runs import inference, run, run_folder
from keeltune.runs.run_folder import Run
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.utils.errors import without_resume_option
from keeltune.utils.files import read_lines, write_json
from keeltune.utils.progress import Display


@dataclass(frozen=True)
class Rung:
    """One length of pilots: a share of the recipe's steps, and the seeds."""

    share: float
    seeds: tuple[int, ...]


class Pilots:
    """The pilots of a recipe, below `folder`; each is run once, and goes on where it was stopped."""

    def __init__(self, recipe: Recipe, folder: Path, steps: int, display: Display):
        self.recipe, self.folder, self.steps, self.display = recipe, folder, steps, display
        self.seconds: dict[tuple[str, float], dict[int, float]] = {}
        self.trained: dict[tuple[str, float], dict[int, float]] = {}
        self.columns: Collection[str] | None = None
        """Those of the rows that pilots are scored on; None where no pilot is run."""
        self._task: Task | None = None
        file = folder / "seconds.json"
        self.took: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def place(self, arm: Arm, share: float, seed: int) -> Path:
        return self.folder / f"{arm.name.replace(' ', '-')}-{share:g}-seed-{seed}"

    def run(self, arm: Arm, share: float, seed: int) -> Run:
        """A pilot's run: the arm's recipe without its test rows, over a share of its steps."""
        values = copy.deepcopy(arm.values)
        values["data"].pop("test", None)
        values["data"].get("source", {}).pop("test", None)
        if self.columns is not None:  # a column of the test rows alone is none here
            without_columns(values, self.columns)
        training = values.setdefault("training", {})
        training |= {"max_steps": max(1, round(share * self.steps)), "seed": seed}
        training.pop("epochs", None)
        values["evaluation"] = {**values.get("evaluation", {}), "patience": None}
        place = self.place(arm, share, seed)
        values["output"] = str(place)
        self.display.say(f"pilot: {arm.name}, {share:.0%} of the steps, seed {seed}")
        begun, new = time.monotonic(), run_folder.finished(place) is None
        made = from_dict(values, self.recipe.folder)
        with without_resume_option(place):
            done = run.train(made, resume=place.is_dir(), display=Display(quiet=True))
        if new:  # what a stopped one took before is not known any more
            self.took[place.name] = time.monotonic() - begun
            write_json(self.folder / "seconds.json", self.took)
        seconds = self.took.get(place.name, done.result["training"]["seconds"])
        self.seconds.setdefault((arm.name, share), {})[seed] = seconds
        self.trained.setdefault((arm.name, share), {})[seed] = done.result["training"]["seconds"]
        return done

    def cost(self, arm: Arm, rung: Rung) -> float:
        """Seconds that an arm's pilots of a rung would take: what is beside the training, and the training's share."""
        known = [key for key in self.seconds if key[0] == arm.name] or list(self.seconds)
        each = []
        for key in known:
            whole, trained = (float(np.mean([*times[key].values()])) for times in (self.seconds, self.trained))
            each.append(max(0.0, whole - trained) + trained * rung.share / key[1])
        return len(rung.seeds) * float(np.mean(each))

    def spent(self) -> float:
        return float(sum(sum(times.values()) for times in self.seconds.values()))

    def task(self, place: Path) -> Task:
        """The task of all pilots, from the first one that is asked for: to open a run loads its weights."""
        self._task = self._task or inference.open_model(place, None).task
        return self._task

    def scores(self, arm: Arm, rung: Rung) -> Scored:
        """What an arm's pilots of a rung scored on the validation rows of both domains."""
        places = [self.place(arm, rung.share, seed) for seed in rung.seeds]
        task = self.task(places[0])
        metric = task.metrics[0]
        sign = oriented(task)

        def tables(split: str, where: str = "") -> list[np.ndarray] | None:
            files = [place / "predictions" / where / f"{split}.jsonl" for place in places]
            if not all(file.is_file() for file in files):
                return None
            return [clustered(task, read_lines(file)) for file in files]

        def drawn(found: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [sign * draws(task, table)[metric] for table in found]

        def values(found: Sequence[np.ndarray]) -> list[float]:
            scores = [scores_of(task, table, intervals=False).metrics[metric] for table in found]
            return [sign * score for score in scores]

        target, source, before = (
            tables("validation"),
            tables("source_validation"),
            tables("source_validation", "before"),
        )
        assert target is not None
        drops = None
        if source is not None and before is not None:
            drops = [then - now for then, now in zip(drawn(before), drawn(source), strict=True)]
        return Scored(
            drawn(target),
            None if source is None else drawn(source),
            values(target),
            None if source is None else values(source),
            drops,
        )


def oriented(task: Task) -> float:
    """What a score is multiplied by to be a share of which more is better."""
    return task.primary_sign / (scale_of(task.metrics[0]) or 1.0)


def rung_for(budget: float, cost: float, share: float, seeds: tuple[int, ...]) -> Rung:
    """The rung that a budget affords, at most `share` of the steps and these seeds: fewer seeds, then fewer steps.

    `budget` and `cost`, that of all its arms over all steps with one seed, in whole plain runs. A shorter training
    tells less than a second seed: what is learnt late, as from a teacher, is not seen in it.
    """
    while len(seeds) > 1 and share * len(seeds) * cost > budget:
        seeds = seeds[:-1]
    return Rung(min(share, max(share / 4, _rounded(budget / (cost * len(seeds))))), seeds)


def _rounded(share: float) -> float:
    """Down to two digits, so that a folder's name is short and the same when it is called again."""
    digits = 1 - math.floor(math.log10(share)) if share > 0 else 2
    return math.floor(share * 10**digits) / 10**digits


def evidence(done: Mapping[str, Run]) -> list[str]:
    """What the pilots measured on the way: the teacher, forgetting, how far the domains are, labels overruled."""
    said: list[str] = []
    judged = next((gated for one in done.values() if (gated := one.result["reference"]["gate"])), None)
    said += teacher.findings(judged)
    for name, one in done.items():
        if name == "plain":
            said += forgetting.findings(one.result)
        elif name == "anchored":
            said += overruled_labels.findings(one.result["veto"], taught=False)
    return list(dict.fromkeys(said))
