"""What a run measures before its first step: the self-test, the start's scores, its teacher, the labels overruled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from keeltune.evaluation import abilities, overruled_labels, split_scores, teacher_report
from keeltune.evaluation.abilities import Abilities
from keeltune.evaluation.scores import Scores
from keeltune.objective.predictions import Rows
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.reports.findings import overruled_labels as overruled_findings
from keeltune.reports.findings import teacher as teacher_findings
from keeltune.runs.inputs import Inputs
from keeltune.tasks.common.batches import to_device
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.reference_holding import held_in
from keeltune.training.row_independence import TOLERANCE, dependence
from keeltune.training.self_test import SELF_TEST_ROWS, self_test
from keeltune.training.student import frozen_dtype
from keeltune.utils.device import DTYPES, in_eval_mode
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display


@dataclass(frozen=True)
class Start:
    """The scores of each split before training, None where the head is new; `abilities`: of what else it can do;
    `teacher`: `reference.gate` of `result.json`; `overruled`: its `veto`; `inputs`: the files that have been read."""

    scores: Mapping[str, Scores | None]
    abilities: Abilities
    teacher: dict[str, Any] | None
    overruled: dict[str, Any] | None
    inputs: Inputs


def measure(job: Job, inputs: Inputs, folder: Path, display: Display) -> Start:
    """All of it; predictions go to `predictions/before`. AssertionError where the self-test finds a bug of ours."""
    _require_independent_rows(job)
    _self_test(job)
    scores = split_scores.before(job, folder, display)
    tested = abilities.before(job, folder, display)
    teacher = teacher_report.teacher_report(job, scores["validation"], display)
    for line in teacher_findings.findings(teacher):
        display.say(line)
    overruled = overruled_labels.veto_report(job)
    for line in overruled_findings.findings(overruled, taught=job.material.recipe.has_teacher):
        display.say(line)
    return Start(scores, tested, teacher, overruled, inputs)


def _require_independent_rows(job: Job) -> None:
    """UserError where what the student, or a live reference, says of a row depends on the rows beside it."""
    task, recipe = job.material.task, job.material.recipe
    asked: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
        "model": lambda batch: task.rows(task.forward(job.model, batch), batch)
    }
    if isinstance(job.reference, Model | Ensemble) and job.anchor_head is None:
        asked["reference"] = job.reference.rows
    half = frozen_dtype(job.material, job.precision) != torch.float32
    of_reference = {DTYPES[job.precision], *held_in(job.material, job.precision)}  # it runs in the run's precision
    rough = {"model": 100 if half else 1, "reference": 1 if of_reference == {torch.float32} else 100}
    for field, rows_of in asked.items():
        with in_eval_mode(job.model):
            examples = job.plan.anchored_examples() if field == "reference" else job.material.main_stream
            found = dependence(rows_of, task, examples, job.device)
        if found > TOLERANCE * rough[field]:
            said = f"a model whose answer to a row depends on the rows beside it: log P differs by {found:.1g} of it"
            fix = "take another architecture; one of experts (expert_capacity) a capacity that drops no token"
            raise UserError(Problem(recipe.where(field), field, said, "the same answer alone and in a batch", fix))


def _self_test(job: Job) -> None:
    """On the first rows, the last one, and one that carries D; an anchor head is tested in the place of the model."""
    first = job.plan.micro_batch(0, 0, 0)
    examples = [*first[:SELF_TEST_ROWS], *first[-1:], *[example for example in first if example.anchored][-1:]]
    batch = to_device(build.collated(job, examples), job.device)
    if job.anchor_head is None:
        self_test(job.model, job.material.task, job.objective, job.reference, batch)
    else:
        self_test(job.model, job.material.task, job.objective, None, batch)
        if "anchored_batch" in batch:
            self_test(
                job.anchor_head.model, job.anchor_head.task, job.objective, job.reference, batch["anchored_batch"]
            )
