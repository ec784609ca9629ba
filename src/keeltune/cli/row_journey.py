"""One row's journey from its fields to the loss, for `keeltune show`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from keeltune.data.dataset import Row
from keeltune.models import loading
from keeltune.objective.formula import Counts
from keeltune.objective.predictions import Rows
from keeltune.objective.references.model import Model
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.training import build
from keeltune.training.job import Job, ReferenceSource
from keeltune.training.preparation import defaults
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal

LISTED = 12
"""Predictions that are listed, and choices of each up to which all are listed."""

LIKELIEST = 3
"""Choices that are listed where there are more."""

Batch = Mapping[str, Any]


@loading.quiet_transformers()
def show_row(recipe: Recipe, number: int, console: Terminal) -> None:
    """Prints the journey of training row `number` (from 1): fields -> tensors -> predictions -> loss terms."""
    display = Display()
    material = prepare(recipe, progress=lambda what: display.say(f"{what} …"))
    rows = material.rows["train"] or material.rows["unlabeled"]
    if number > len(rows):
        raise UserError(
            Problem("the call", "--row", str(number), f"a row from 1 to {len(rows)}", "name a row that is there")
        )
    job = build.build(material, reference_source=ReferenceSource("online"))
    row = rows[number - 1]
    own = list({e.key: e for e in job.plan.examples if e.key.startswith(row.key)}.values())
    example = own[0]
    batch = to_device(material.task.collate([example]), job.device)
    for line in defaults.sentences(material):
        console.print(line)
    console.rule("1. the row")
    _print_row(row, console)
    console.rule("2. what the model reads" + (f": example 1 of {len(own)}" if len(own) > 1 else ""))
    _print_tensors(job, example, batch, console)
    console.rule("3. predictions (eval mode)")
    job.model.eval()
    matched = batch if job.matching is None else job.matching.requesting(batch)
    with torch.no_grad(), job.autocast():
        outputs = material.task.forward(job.model, matched)
    student = material.task.rows(outputs, batch)
    has_reference = job.reference is not None and job.anchor_head is None
    reference = job.reference.rows(batch) if job.reference is not None and has_reference else None
    _print_predictions(job, student, reference, batch, console)
    console.rule("4. the loss, if this row were the whole step")
    matching = 0.0
    if job.matching is not None:
        assert isinstance(job.reference, Model)
        with torch.no_grad():
            matching = job.matching(outputs, job.reference.outputs(matched), batch).item()
    _print_loss(job, student, reference, batch, matching, console)


def _print_row(row: Row, console: Terminal) -> None:
    console.print(f"{row.file}, line {row.line}, key {row.key[:16]}…")
    _pairs(console, {name: repr(value) for name, value in row.fields.items()})


def _print_tensors(job: Job, example: Example, batch: Batch, console: Terminal) -> None:
    if "input_ids" in example.inputs:
        tokens = job.material.task.tokenizer.convert_ids_to_tokens(example.inputs["input_ids"])
        console.print(" ".join(tokens))
        if job.material.task.reads_prompt:
            learnt = [place + 1 for place, predicted in enumerate(example.predicted) if predicted]
            console.print(f"learnt, {len(learnt)} of {len(tokens)} tokens, counted from 0:")
            for stretch in _stretches(learnt):
                console.print(f"  {stretch[0]} to {stretch[-1]}: {' '.join(tokens[i] for i in stretch)}")
    _pairs(console, {f"inputs.{name}": _tensor(value) for name, value in batch["inputs"].items()})
    _pairs(console, {name: _tensor(batch[name]) for name in ("targets", "weights", "anchored")})


def _stretches(places: Sequence[int]) -> list[list[int]]:
    """Places that follow one another, together."""
    found: list[list[int]] = []
    for place in places:
        if found and place == found[-1][-1] + 1:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _print_predictions(job: Job, student: Rows, reference: Rows | None, batch: Batch, console: Terminal) -> None:
    """The probabilities of the likeliest choices and of the label, of the first predictions."""
    if job.material.task.choices == "numbers":
        _print_numbers(job, student, reference, batch, console)
        return
    task, listed, temperature = job.material.task, slice(0, LISTED), job.objective.temperature
    table = Table("prediction", "choice", "student", *(["reference"] if reference is not None else []), "target")
    of_student = student.log_probs(listed, temperature).exp()
    of_reference = None if reference is None else reference.log_probs(listed, temperature).exp()
    for n, probabilities in enumerate(of_student):
        name = task.settings.labels[n] if task.settings.multi_label else str(n)
        target = int(batch["targets"][n])
        for choice in _shown_choices(probabilities, target):
            cells = [f"{probabilities[choice].item():.4f}"]
            if reference is not None and of_reference is not None:
                sure = torch.full_like(probabilities[None], -torch.inf)
                sure[0, choice] = 0.0
                cells.append(f"{_mass(reference, slice(n, n + 1), sure, of_reference[n]):.4f}")
            mark = "◀" if target == choice else ""
            table.add_row(name, task.choice_name(choice), *cells, mark)
    console.print(table)
    if len(student) > LISTED:
        console.print(f"… and {len(student) - LISTED} more predictions")


def _print_numbers(job: Job, student: Rows, reference: Rows | None, batch: Batch, console: Terminal) -> None:
    """The standardised numbers of student and reference beside the targets; where there is no target, a dash."""
    table = Table("number", "student", *(["reference"] if reference is not None else []), "target")
    tables = [rows.log_probs(slice(0, LISTED))[:, 0].tolist() for rows in (student, reference) if rows is not None]
    names = job.material.task.settings.labels
    for n, of_models in enumerate(zip(*tables, strict=True)):
        target = f"{batch['numbers'][n].item():.4f}" if int(batch["targets"][n]) >= 0 else "–"
        table.add_row(names[n % len(names)], *(f"{number:.4f}" for number in of_models), target)
    console.print(table)


def _shown_choices(probabilities: torch.Tensor, target: int) -> Sequence[int]:
    few = len(probabilities) <= LISTED
    likeliest = range(len(probabilities)) if few else probabilities.topk(LIKELIEST).indices.tolist()
    return list(dict.fromkeys([*likeliest, *([target] if target >= 0 else [])]))


def _mass(reference: Rows, one: slice, sure: torch.Tensor, probabilities: torch.Tensor) -> float:
    """The reference's mass where it puts a distribution that is sure of a choice; NaN where it has no such one."""
    return (reference.comparable(sure, one).exp() * probabilities).sum().item()


def _print_loss(
    job: Job, student: Rows, reference: Rows | None, batch: Batch, matching: float, console: Terminal
) -> None:
    task, objective, recipe = job.material.task, job.objective, job.material.recipe
    n_ce, n_d = task.counts(batch)
    terms = objective(
        task.cross_entropy(student, batch), student, reference, batch["anchored"], counts=Counts(n_ce, n_d)
    )
    lines = {"Σ CE / n_CE": f"{terms.cross_entropy.item():.6f} / {n_ce:g} nats"}
    if reference is not None:
        lines |= {
            "Σ D / n_D": f"{terms.divergence.item():.6f} / {n_d:g} nats",
            "D": f"{recipe.objective.divergence_name} at temperature {objective.temperature:g}",
            "weight": f"{objective.weight:.6g}" + (" · min(1, n_D / n_CE)" if objective.per_label else ""),
        }
    if job.matching is not None:
        lines["Σ M / n_B"] = f"{matching:.6f} / 1 example, weighted"
    loss = terms.loss.item() + matching
    lines["loss"] = f"{loss:.6f}"
    _pairs(console, lines)
    if job.anchor_head is not None:
        console.print(f"D is of another head ({recipe.objective.anchor_head}) and is not shown here")
    if not math.isfinite(loss):
        console.print("the loss is not finite")


def _pairs(console: Terminal, pairs: Mapping[str, str]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        console.print(f"  {name:<{width}}  {value}")


def _tensor(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}  {value.flatten().tolist()[:24]}"
