"""What `keeltune check`, `show` and `doctor` print: the data and its cost, one row's journey, the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeltune.evaluation import audit_report
from keeltune.models import loading
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import StudentFrom
from keeltune.reports import run_page
from keeltune.training.preparation.material import SCORED, Material
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.device import choose_precision, matmul_flops, this_device
from keeltune.utils.distributed import world_size
from keeltune.utils.progress import Display

EFFICIENCY = 0.3
"""Share of a matrix product's speed that a whole training step reaches; measured with MiniLM on two cores."""


@loading.quietly()
def check(recipe: Recipe, console: Console) -> None:
    """Prints what the recipe reads and what it will cost. Raises UserError with every problem; loads no weight."""
    display = Display()
    run_page.sections_of(recipe.report.sections, recipe.where("report.sections"))
    material = prepare(recipe, progress=lambda what: display.say(f"{what} …"))
    table = Table("split", "rows", "examples", "tokens, mean", "tokens, longest", "labels")
    for name, rows in material.rows.items():
        if rows:
            lengths = [example.length for example in material.examples[name]]
            mean, labels = f"{sum(lengths) / len(lengths):.1f}", _listed(audit_report.label_counts(material.task, rows))
            table.add_row(name, str(len(rows)), str(len(lengths)), mean, str(max(lengths)), escape(labels))
    console.print(table)
    for problem in [*material.skipped, *material.warnings]:
        console.print(escape(f"{'skipped' if problem.severity == 'error' else 'warning'}: {problem}"), soft_wrap=True)
    for notice in material.notices:
        console.print(escape(notice), soft_wrap=True)
    cost = estimate(material)
    console.print(
        f"estimate: {cost['steps']} steps of {material.batch_size * material.micro_batches} rows, "
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
    device = this_device()
    precision = choose_precision(recipe.training.precision, device)
    whole, body, depth, width = _sizes(material)
    lengths = [example.length for example in material.main_stream]
    step_size = material.batch_size * material.micro_batches
    mix = material.stream_ratios
    beside = {name: [e.length for e in material.examples[name]] for name in mix}
    mean = sum(lengths) / len(lengths)
    tokens = material.steps * step_size * mean * 1.05
    for name, own in beside.items():
        tokens += material.steps * step_size * mix[name] * sum(own) / len(own) * 1.3
    references = max(len(material.references), int(material.reference_is_start))
    asked = recipe.training.regularizers
    twice, moved = asked.r_drop is not None, asked.fgm is not None
    operations = tokens * body * (6 * (1 + twice + moved) + 2 * references * (1 + moved))
    scored = sum(e.length for s in SCORED for e in material.examples[s])
    seconds = operations / (EFFICIENCY * matmul_flops(precision, device) * world_size())
    seconds += 4 * scored * body / (EFFICIENCY * matmul_flops("fp32", device))
    most = max(lengths + [length for own in beside.values() for length in own])
    longest = material.batch_size * most * (1 + sum(mix[name] for name in beside))
    activations = longest * depth * width * (40 if precision == "bf16" else 70) * (1 + twice)
    trained = whole * (0.1 if recipe.training.lora else 1)
    memory = (16 + 4 * (asked.weight_average is not None)) * trained + 4 * whole * references + activations + 6e8
    return {"steps": material.steps, "seconds": seconds, "memory_bytes": memory}


def _sizes(material: Material) -> tuple[int, int, int, int]:
    """Weights, weights outside the embeddings, layers and width of the student."""
    config = material.config
    model = loading.skeleton(config, material.auto_model)
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


LISTED = 12
"""Predictions that `show` lists, and choices of each up to which it lists all."""
