"""What a recipe reads and what it will cost, for `keeltune check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from keeltune.cli.cost_estimate import estimate
from keeltune.cli.plan_table import print_plan
from keeltune.evaluation import audit_report
from keeltune.models import loading, model_files
from keeltune.models.weight_files import may_lack_weights
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import disk_estimate, output_folder
from keeltune.training.accelerators import planned
from keeltune.training.preparation import error_list
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.prepare import prepare
from keeltune.training.student_skeleton import student_skeleton
from keeltune.utils.collection import paused_collection
from keeltune.utils.errors import listing
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal

ENCODED = 5_000
"""Rows of a split that are encoded, for their lengths: a tokenizer takes ten times as long as all else. The others are
read, labelled and compared alike, and training encodes them before its first step."""


@paused_collection()
@loading.quiet_transformers()
def check_recipe(recipe: Recipe, console: Terminal, plan: str | None = None) -> None:
    """Prints what the recipe reads and what it will cost. Raises UserError with every problem; loads no weight.

    `plan`: other machines for which that is told too, as `accelerators.planned` reads it.
    """
    machines = None if plan is None else planned(plan)
    display = Display()
    run_page.sections_from_elsewhere(recipe.report.sections, recipe.where("report.sections"))
    output_folder.refuse_among_inputs(recipe)
    output_folder.refuse_unwritable(recipe.path(recipe.output))
    with may_lack_weights(machines is not None):
        material = prepare(recipe, progress=lambda what: display.say(f"{what} …"), limit=ENCODED)
    table = Table("split", "rows", "examples", "tokens, mean", "tokens, longest", "labels")
    for name, rows in material.rows.items():
        if rows:
            lengths = [example.length for example in material.examples[name]]
            mean, labels = f"{sum(lengths) / len(lengths):.1f}", _listed(audit_report.label_counts(material.task, rows))
            table.add_row(name, str(len(rows)), str(len(lengths)), mean, str(max(lengths)), labels)
    console.print(table)
    if material.skipped:
        console.block(listing(material.skipped, error_list.written_list(recipe), "skipped"))
    for problem in material.warnings:
        console.block(f"warning: {problem}")
    for notice in material.notices:
        console.print(notice)
    student = student_skeleton(material)
    cost = estimate(material, student)
    console.print(
        f"estimate: {cost['steps']} steps of {material.batch_size * material.micro_batches} rows, "
        f"about {_duration(cost['seconds'])}, about {cost['memory_bytes'] / 2**30:.1f} GiB of memory"
    )
    console.print(_disk(material, student))
    if machines is not None:
        print_plan(material, *machines, console)
    console.print(f"{len(material.warnings)} warnings, {len(material.skipped)} rows skipped; ready to train")


def _listed(counts: Mapping[str, int]) -> str:
    """The commonest labels with their rows."""
    listed = ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common(6))
    return f"{listed} … {len(counts)} in all" if len(counts) > 6 else listed or "none"


def _disk(material: Material, student: Any) -> str:
    """What a run will write, at its most and when it is finished; of several seeds one is trained at a time."""
    half = material.source != NEW and model_files.half_precision(material.source, material.config) is not None
    parts = disk_estimate.bytes_of_run(material, student, half=half)
    seed = material.recipe.training.seed
    seeds = len(set(seed)) if isinstance(seed, list) else 1
    left = disk_estimate.left_of(material, parts)
    most = sum(parts.values()) + (seeds - 1) * left
    return f"disk: at most {_size(most)} while it trains, {_size(seeds * left)} once it is finished"


def _size(number: float) -> str:
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
