"""The teacher gate: before a distillation starts, what its teacher knows of the validation rows.

Each teacher, and the average of several, is scored with the task's own metric beside the student's start, on the same
rows; where its answers are classes or tags, its calibration is measured too. Training is the same with and without:
the models are in eval mode and the random state is untouched.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeltune.data import dataset
from keeltune.data.clusters import numbers_of
from keeltune.data.dataset import Row
from keeltune.evaluation.calibration import calibration
from keeltune.evaluation.scores import WRITTEN, Scores, gain, score, scores_of
from keeltune.objective.predictions import IGNORED, Rows
from keeltune.objective.references.ensemble import Ensemble, averaged
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.tasks.common.batches import in_batches, to_device
from keeltune.tasks.common.example import Example, Prediction
from keeltune.tasks.task import Task
from keeltune.training import reference_choice
from keeltune.training.job import Job
from keeltune.utils import manifest
from keeltune.utils.files import write_atomically
from keeltune.utils.json import strict_value
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.progress import Display

ROWS = 2000
"""Validation rows on which a teacher is judged at most; where answers are written, `evaluation.WRITTEN`."""

NOTHING = 0.0005
"""A difference that three decimals do not show: rounding, where the teacher is the student's own start."""

MENDED = 0.02
"""What a temperature must take from the calibration error before it is offered."""

CHANCE = 6.63
"""The 99 % point of χ² with one degree of freedom, which 2 N · gain exceeds by chance once in a hundred times."""


def teacher_report(job: Job, start: Scores | None, display: Display) -> dict[str, Any] | None:
    """What `result.json` reports as `reference.gate`; None without validation rows or a teacher's model at hand.

    `start` holds the scores of the student before training on all validation rows; None where its head is new.
    {"rows", "student", "student_intervals", "floor", **verdict of what the student is held near, "members": [verdict]},
    a verdict being {"model", "metric", "temperature", "teacher", "intervals", "difference", "over_floor",
    "calibration"}; "members" are those of an average. `difference` is the 95 % interval of how much better the teacher
    is than the student's start in `metric`, `over_floor` than the commonest answer given to every row.
    """
    recipe, task, rows = job.material.recipe, job.material.task, job.material.rows["validation"]
    spec = recipe.reference_spec()
    if (
        not recipe.has_teacher
        or spec is None
        or not rows
        or job.reference_source.kind not in ("model", "ensemble", "cached")
    ):
        return None
    indices = dataset.subset(len(rows), WRITTEN if task.generates else ROWS)
    names = reference_choice.model_names(job.material)
    clusters = recipe.evaluation.clusters
    temperatures = spec.temperatures(len(names))
    answers = _cached_answers(job, indices, display)
    rows = [rows[i] for i in indices]
    numbers = numbers_of(rows, clusters)
    student = None if start is None else scores_of(task, start.table[indices], clusters=numbers)
    floor = _floor(task, rows) if answers[0][0][0].probabilities is not None else None  # a label or a set of them
    floor = floor if floor and task.metrics[0] in floor[1].metrics else None  # one answer to all rows has no loss
    verdicts = []
    for number, (predictions, measured) in enumerate(answers):
        scores = score(task, predictions, rows, clusters=clusters)
        average = number == len(names)
        if average and task.generates:
            scores = scores_of(task, scores.table[:, -2:], clusters=numbers)
        if not scores.metrics:
            return None  # no row has a loss, which is all that is known of an average of writers
        table, metric = scores.table, next(iter(scores.metrics))
        over_start = student and gain(task, table, student.table[:, -table.shape[1] :], metric, numbers)
        over_floor = floor and gain(task, table, floor[1].table, metric, numbers)
        verdicts.append(
            {
                "model": None if average else names[number],
                "metric": metric,
                "temperature": None if average else temperatures[number],
                "teacher": scores.metrics,
                "intervals": _lists(scores),
                "difference": over_start and list(over_start),
                "over_floor": over_floor and list(over_floor),
                "calibration": measured,
            }
        )
    return {
        "rows": len(rows),
        "student": student and student.metrics,
        "student_intervals": student and _lists(student),
        "floor": floor and {"answer": floor[0], task.metrics[0]: floor[1].metrics[task.metrics[0]]},
        **verdicts[-1],
        "members": verdicts[:-1],
    }


TeacherAnswers = list[tuple[list[Prediction], dict[str, Any] | None]]
"""Answers to the rows and their calibration: of each teacher, then of their average."""


def _cached_answers(job: Job, indices: Sequence[int], display: Display) -> TeacherAnswers:
    """The teachers' answers; beside a cache they are stored, so that no later run needs the teachers for them."""
    rows = job.material.rows["validation"]
    if job.reference_source.kind != "cached":
        assert job.reference is not None
        return _answers(job, job.reference, indices, display)
    assert job.reference_source.cache is not None
    settings, task = job.material.recipe.generation, job.material.task
    written = [settings.beams, settings.max_new_tokens, settings.decoding()] if task.generates else []
    request = json.dumps([*(rows[i].key for i in indices), *written])
    name = hashlib.sha256(request.encode()).hexdigest()[:16]
    file = Path(job.reference_source.cache["folder"]) / f"gate-{name}.json"
    with suppress(NotAsWrittenError, ValueError, TypeError):
        stored = strict_value(manifest.opened(file)["answers"], infinity=True)
        return [([Prediction(**answer) for answer in predictions], measured) for predictions, measured in stored]
    answers = _answers(job, job.live_reference(), indices, display)
    job.live_reference.drop()
    stored = [[[asdict(answer) for answer in predictions], measured] for predictions, measured in answers]
    write_atomically(file, manifest.sealed({"answers": json.dumps(stored)}))
    return answers


def _in_full_precision(teacher: Model) -> Model:
    """The same model outside autocast: reported scores are float32, the student's too."""
    same = copy(teacher)
    same.autocast = nullcontext
    return same


def _lists(scores: Scores) -> dict[str, list[float]]:
    return {name: list(pair) for name, pair in scores.intervals.items()}


@torch.inference_mode()
def _answers(job: Job, reference: Reference, indices: Sequence[int], display: Display) -> TeacherAnswers:
    members = reference.members if isinstance(reference, Ensemble) else [reference]
    teachers = [_in_full_precision(member) for member in members if isinstance(member, Model)]
    weights = reference.log_weights if isinstance(reference, Ensemble) else []
    task, stored, rows = job.material.task, job.material.encoded["validation"], job.material.rows["validation"]
    encoded = [task.encode_for_all(rows[i], scored=True) if task.companions else stored[i] for i in indices]
    examples = [replace(example, anchored=True) for row in encoded for example in row]
    tables: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(teachers) + bool(weights))]

    def ask(asked_examples: list[Example]) -> list[tuple[Prediction, ...]]:
        batch = to_device(task.collate(asked_examples), job.device)
        outputs: list[Rows] = [teacher.rows(batch) for teacher in teachers]
        if weights:
            outputs.append(averaged(list(outputs), weights))
        if task.choices == "labels":
            known = batch["anchored"] & (batch["targets"] != IGNORED)  # a teacher may read less than the student does
            for table, output in zip(tables, outputs, strict=True):
                table.append((output.log_probs(slice(None))[known].cpu(), batch["targets"][known].cpu()))
        return list(zip(*_decoded(task, teachers, outputs, batch, asked_examples, job.device), strict=True))

    with display.bar("scoring the teacher", len(examples)) as advance:
        answers = iter(in_batches(examples, ask, progress=advance))
    by_row = [[next(answers) for _ in row] for row in encoded]
    by_member = []
    for member, table in enumerate(tables):
        measured = calibration(*(torch.cat(part) for part in zip(*table, strict=True))) if table else None
        predictions = [task.combine([parts[member] for parts in row]) for row in by_row]
        by_member.append((predictions, None if measured is None else asdict(measured)))
    return by_member


def _decoded(
    task: Task,
    teachers: Sequence[Model],
    outputs: Sequence[Rows],
    batch: Mapping[str, Any],
    examples: Sequence[Example],
    device: str,
) -> list[list[Prediction]]:
    """The answers in the outputs of each teacher, and of their average: it has a loss where they write, no text."""
    if not task.generates:
        return [task.decode(rows, batch) for rows in outputs]
    texts = [_written(task, teacher, examples, device) for teacher in teachers]
    texts += [[""] * len(examples)] * (len(outputs) - len(texts))
    losses = [task.losses(rows, batch) for rows in outputs]
    return [
        [Prediction(t, None, loss, e.labelled) for t, loss, e in zip(*both, examples, strict=True)]
        for both in zip(texts, losses, strict=True)
    ]


def _written(task: Task, teacher: Model, examples: Sequence[Example], device: str) -> list[str]:
    """What a teacher writes for each example, as it reads it."""
    reader: Task = task
    if teacher.entry is not None:
        reader, examples = task.companions[teacher.entry], [e.others[teacher.entry] for e in examples]
    return [texts[0] for texts in reader.candidates(teacher.model, examples, device)]


def _floor(task: Task, rows: Sequence[Row]) -> tuple[Any, Scores]:
    """The commonest right answer of the rows, and its scores as the answer to every one of them."""
    ((commonest, _),) = Counter(json.dumps(task.gold(row)) for row in rows).most_common(1)
    answer = json.loads(commonest)
    return answer, score(task, [Prediction(answer, None, 0.0, 0.0)] * len(rows), rows, intervals=False)
