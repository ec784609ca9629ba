"""`keeltune show`: one row's journey from its fields to the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeltune.cli.check import LISTED
from keeltune.models import loading
from keeltune.objective.formula import Counts
from keeltune.objective.references.model import Model
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import to_device
from keeltune.training import build
from keeltune.training.job import ReferenceSource
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display


@loading.quietly()
def show(recipe: Recipe, number: int, console: Console) -> None:
    """Prints the journey of training row `number` (from 1): fields -> tensors -> predictions -> loss terms."""
    display = Display()
    material = prepare(recipe, progress=lambda what: display.say(f"{what} …"))
    rows = material.rows["train"] or material.rows["unlabeled"]
    if number > len(rows):
        raise UserError(
            Problem("the call", "--row", str(number), f"a row from 1 to {len(rows)}", "name a row that is there")
        )
    job = build.build(material, reference_source=ReferenceSource("online"))
    task, row = material.task, rows[number - 1]
    example = next(e for e in job.plan.examples if e.key.startswith(row.key))  # the first, where a row has several
    batch = to_device(task.collate([example]), job.device)
    console.rule("1. the row")
    console.print(escape(f"{row.file}, line {row.line}, key {row.key[:16]}…"), soft_wrap=True)
    _pairs(console, {name: repr(value) for name, value in row.fields.items()})
    console.rule("2. what the model reads")
    if "input_ids" in example.inputs:
        tokens = task.tokenizer.convert_ids_to_tokens(example.inputs["input_ids"])
        console.print(escape(" ".join(tokens)), soft_wrap=True)
    _pairs(console, {f"inputs.{name}": _tensor(value) for name, value in batch["inputs"].items()})
    _pairs(console, {name: _tensor(batch[name]) for name in ("targets", "weights", "anchored")})
    console.rule("3. predictions (eval mode)")
    job.model.eval()
    asked = batch if job.matching is None else job.matching.ask(batch)
    with torch.no_grad(), job.autocast():
        outputs = task.forward(job.model, asked)
    student = task.rows(outputs, batch)
    second = job.anchor_head is not None
    reference = None if job.reference is None or second else job.reference.rows(batch)
    table = Table("prediction", "choice", "student", *(["reference"] if reference is not None else []), "target")
    listed, temperature = slice(0, LISTED), job.objective.temperature
    ours = student.log_probs(listed, temperature).exp()
    theirs = None if reference is None else reference.log_probs(listed, temperature).exp()

    def of_reference(n: int, c: int) -> float:
        """The reference's mass where it puts a distribution that is sure of choice c; NaN where it has no such one."""
        assert reference is not None
        assert theirs is not None
        sure = torch.full_like(ours[:1], -torch.inf)
        sure[0, c] = 0.0
        return (reference.comparable(sure, slice(n, n + 1)).exp() * theirs[n]).sum().item()

    for n, line in enumerate(ours):
        name = task.settings.labels[n] if task.settings.multi_label else str(n)
        target = int(batch["targets"][n])
        likely = range(len(line)) if len(line) <= LISTED else line.topk(3).indices.tolist()
        for c in dict.fromkeys([*likely, *([target] if target >= 0 else [])]):
            mark = "◀" if target == c else ""
            other = [] if theirs is None else [f"{of_reference(n, c):.4f}"]
            table.add_row(escape(name), escape(task.choice_name(c)), f"{line[c].item():.4f}", *other, mark)
    console.print(table)
    if len(student) > LISTED:
        console.print(f"… and {len(student) - LISTED} more predictions")
    console.rule("4. the loss, if this row were the whole step")
    n_ce, n_d = task.counts(batch)
    objective = job.objective
    terms = objective(
        task.cross_entropy(student, batch), student, reference, batch["anchored"], counts=Counts(n_ce, n_d)
    )
    cross_entropy, divergence = terms.cross_entropy.item(), terms.divergence.item()
    lines = {"Σ CE / n_CE": f"{cross_entropy:.6f} / {n_ce:g} nats"}
    if reference is not None:
        lines |= {
            "Σ D / n_D": f"{divergence:.6f} / {n_d:g} nats",
            "D": f"{recipe.objective.divergence_name} at temperature {objective.temperature:g}",
            "weight": f"{objective.weight:.6g}" + (" · min(1, n_D / n_CE)" if objective.per_label else ""),
        }
    loss = terms.loss.item()
    if job.matching is not None:
        assert isinstance(job.reference, Model)
        with torch.no_grad():
            matched = job.matching(outputs, job.reference.outputs(asked), batch).item()
        lines["Σ M / n_B"] = f"{matched:.6f} / 1 example, weighted"
        loss += matched
    lines["loss"] = f"{loss:.6f}"
    _pairs(console, lines)
    if second:
        console.print(f"D is of another head ({recipe.objective.anchor_head}) and is not shown here")
    if not math.isfinite(loss):
        console.print("the loss is not finite")


def _pairs(console: Console, pairs: Mapping[str, str]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        console.print(escape(f"  {name:<{width}}  {value}"), soft_wrap=True)


def _tensor(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}  {value.flatten().tolist()[:24]}"
