"""What a run measures before its first step: the self-test, the start's scores, its teacher, the labels overruled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.evaluation import overruled_labels, split_scores, teacher_report
from keeltune.evaluation.scores import Scores
from keeltune.reports.findings import overruled_labels as overruled_findings
from keeltune.reports.findings import teacher as teacher_findings
from keeltune.tasks.common.batches import to_device
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.self_test import SELF_TEST_ROWS, self_test
from keeltune.utils.progress import Display


@dataclass(frozen=True)
class Start:
    """The scores of each split before training, None where the head is new; `teacher`: `reference.gate` of
    `result.json`; `overruled`: its `veto`."""

    scores: Mapping[str, Scores | None]
    teacher: dict[str, Any] | None
    overruled: dict[str, Any] | None


def measure(job: Job, folder: Path, display: Display) -> Start:
    """All of it; predictions go to `predictions/before`. AssertionError where the self-test finds a bug of ours."""
    _self_test(job)
    scores = split_scores.before(job, folder, display)
    teacher = teacher_report.teacher_report(job, scores["validation"], display)
    for line in teacher_findings.findings(teacher):
        display.say(line)
    overruled = overruled_labels.veto_report(job)
    for line in overruled_findings.findings(overruled, taught=job.material.recipe.has_teacher):
        display.say(line)
    return Start(scores, teacher, overruled)


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
