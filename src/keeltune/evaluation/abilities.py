"""What the model can do besides the work that it is trained for, scored before and after training, row by row.

The named sets of `data.source.test`, each by its own task, and the harness's tasks of `data.source.lm_eval`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune.evaluation import forgetting, harness, harness_change, split_scores
from keeltune.evaluation.harness import HarnessScores
from keeltune.evaluation.scores import Scores
from keeltune.tasks.task import Task
from keeltune.training.job import Job
from keeltune.utils.json_lines import read_lines
from keeltune.utils.progress import Display

FOLDER = "abilities"
"""Where the predictions lie, in `predictions` and in `predictions/before`."""


@dataclass(frozen=True)
class Abilities:
    """The scores of the named sets, and those of the harness's tasks, by their names."""

    sets: Mapping[str, Scores] = field(default_factory=dict)
    harness: Mapping[str, HarnessScores] = field(default_factory=dict)


def before(job: Job, folder: Path, display: Display) -> Abilities:
    """Those of the model as it was before training; none where its head is new."""
    return Abilities() if job.student.fresh else scores(job, job.model, folder / "predictions" / "before", display)


def scores(job: Job, model: Any, predictions: Path, display: Display) -> Abilities:
    """All of them; the answers in `predictions`/abilities."""
    found = {}
    for test in job.material.named_tests:
        with answering(model, test.task, job.student.processor):
            found[test.name] = split_scores.score_set(job, model, test, predictions / FOLDER, display)
    asked = {} if job.student.fresh else harness.scores(job, model, predictions / FOLDER, display)
    return Abilities(found, asked)


@contextmanager
def answering(model: Any, task: Task, processor: Any) -> Iterator[None]:
    """Within, the model writes as `task` asks: a model carries one `GenerationConfig`, that of the work it is trained
    for, and has it back at the end. Of a model with adapters both it and its base carry one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    held = {id(m): (m, getattr(m, "generation_config", None)) for m in (base, model)}
    try:
        task.adopt(base, processor)
        model.generation_config = base.generation_config
        yield
    finally:
        for each, config in held.values():
            each.generation_config = config


def report(job: Job, predictions: Path, before: Abilities, after: Abilities) -> dict[str, Any] | None:
    """What `result.json` reports as `abilities`; None where none is named, or nothing was scored before training.

    {name: {"task", "split" (where in `predictions` its answers lie), "language" {"code", "by"} or null, and what
    `forgetting.change` says of a split}}; of the harness's tasks what `harness_change.change` says
    """
    found = _of_sets(job, predictions, before.sets, after.sets) if before.sets else {}
    for each in job.material.harness:
        if each.name in before.harness:
            changed = harness_change.change(each, before.harness[each.name], after.harness[each.name])
            found |= {each.name: changed} if changed is not None else {}
    return found or None


def _of_sets(job: Job, predictions: Path, before: Mapping[str, Scores], after: Mapping[str, Scores]) -> dict[str, Any]:
    recipe = job.material.recipe
    named = {test.name: test.task or recipe.task for test in recipe.data.source.named_tests}
    found = {}
    for test in job.material.named_tests:
        old, new = (read_lines(part / FOLDER / f"{test.name}.jsonl") for part in (predictions / "before", predictions))
        lengths = [sum(example.length for example in row) for row in test.encoded]
        change = forgetting.change(
            test.task, test.rows, before[test.name], after[test.name], (old, new), lengths=lengths
        )
        told = test.task.settings.language
        found[test.name] = {
            "task": named[test.name],
            "split": f"{FOLDER}/{test.name}",
            "language": {"code": told.code, "by": told.by} if told else None,
            **change,
        }
    return found
