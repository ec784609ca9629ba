"""Short ordinary runs of the arms: paired in their seeds, resumable, scored on validation rows alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keeltune.advisor.candidates import Arm, without_columns
from keeltune.advisor.verdict import Scored
from keeltune.evaluation.scores import scores_of
from keeltune.evaluation.seed_bootstrap import clustered, draws
from keeltune.recipe import from_dict
from keeltune.recipe.fields import Recipe
from keeltune.runs import opened_model, run, run_folder
from keeltune.runs.run_folder import Run
from keeltune.tasks.metrics import scale_of
from keeltune.tasks.task import Task
from keeltune.utils.errors import without_resume_option
from keeltune.utils.files import write_json
from keeltune.utils.json import read_json
from keeltune.utils.json_lines import read_lines
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
        """Of whole pilots, by arm and share and then by seed; `training_seconds`: of their trainings alone."""
        self.training_seconds: dict[tuple[str, float], dict[int, float]] = {}
        self.columns: Collection[str] | None = None
        """Those of the rows that pilots are scored on; None where no pilot is run."""
        self._task: Task | None = None
        file = folder / "seconds.json"
        self.measured: dict[str, float] = read_json(file, kind=dict) if file.is_file() else {}
        """Seconds of each pilot's folder, also those of earlier calls."""

    def output(self, arm: Arm, share: float, seed: int) -> Path:
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
        output = self.output(arm, share, seed)
        values["output"] = str(output)
        self.display.say(f"pilot: {arm.name}, {share:.0%} of the steps, seed {seed}")
        start, new = time.monotonic(), run_folder.finished(output) is None
        recipe = from_dict(values, self.recipe.folder)
        with without_resume_option(output):
            pilot = run.train(recipe, resume=output.is_dir(), display=Display(quiet=True))
        if new:  # what a stopped one took before is not known any more
            self.measured[output.name] = time.monotonic() - start
            write_json(self.folder / "seconds.json", self.measured)
        training = pilot.result["training"]["seconds"]
        self.seconds.setdefault((arm.name, share), {})[seed] = self.measured.get(output.name, training)
        self.training_seconds.setdefault((arm.name, share), {})[seed] = training
        return pilot

    def cost(self, arm: Arm, rung: Rung) -> float:
        """Seconds that an arm's pilots of a rung would take: a fixed part, and the training's share."""
        known = [key for key in self.seconds if key[0] == arm.name] or list(self.seconds)
        estimates = []
        for key in known:
            whole, training = (
                float(np.mean([*seconds[key].values()])) for seconds in (self.seconds, self.training_seconds)
            )
            estimates.append(max(0.0, whole - training) + training * rung.share / key[1])
        return len(rung.seeds) * float(np.mean(estimates))

    def spent(self) -> float:
        return float(sum(sum(times.values()) for times in self.seconds.values()))

    def count(self) -> int:
        return sum(map(len, self.seconds.values()))

    def task(self, folder: Path) -> Task:
        """The task of all pilots, from the first one that is opened: to open a run loads its weights."""
        self._task = self._task or opened_model.open_model(folder, None, outside=True).task
        return self._task

    def scores(self, arm: Arm, rung: Rung) -> Scored:
        """What an arm's pilots of a rung scored on the validation rows of both domains."""
        folders = [self.output(arm, rung.share, seed) for seed in rung.seeds]
        task = self.task(folders[0])
        metric = task.metrics[0]
        factor = higher_is_better(task)

        def tables(split: str, where: str = "") -> list[np.ndarray] | None:
            files = [folder / "predictions" / where / f"{split}.jsonl" for folder in folders]
            if not all(file.is_file() for file in files):
                return None
            return [clustered(task, read_lines(file)) for file in files]

        def resampled(of_seeds: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [factor * draws(task, table)[metric] for table in of_seeds]

        def values(of_seeds: Sequence[np.ndarray]) -> list[float]:
            scores = [scores_of(task, table, intervals=False).metrics[metric] for table in of_seeds]
            return [factor * score for score in scores]

        target, source, before = (
            tables("validation"),
            tables("source_validation"),
            tables("source_validation", "before"),
        )
        assert target is not None
        drops = None
        if source is not None and before is not None:
            drops = [then - now for then, now in zip(resampled(before), resampled(source), strict=True)]
        return Scored(
            resampled(target),
            None if source is None else resampled(source),
            values(target),
            None if source is None else values(source),
            drops,
        )


def higher_is_better(task: Task) -> float:
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
