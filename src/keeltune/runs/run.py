"""`kt.train`: a recipe becomes a finished run; a recipe of several seeds a run of each, and their pool above them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from keeltune.models import loading
from keeltune.recipe import opened
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import one_seed, output_folder, seeds
from keeltune.runs.run_folder import Run
from keeltune.training import run_identity
from keeltune.utils.distributed import is_main_process
from keeltune.utils.files import owners_alone
from keeltune.utils.process_group import joined
from keeltune.utils.progress import Display


@loading.quiet_transformers()
def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Collection[str] = (),
    display: Display | None = None,
) -> Run:
    """Trains and evaluates after a recipe, and writes its run folder; of several seeds one each, and their pool.

    Args:
        recipe: a YAML file's path, a `Recipe`, or a mapping as YAML would give it.
        resume: go on from the newest checkpoint in `output`; the run ends as if it had not been interrupted.
        overwrite: remove an earlier run from `output` first.
        allow_change: with `resume`, the fields of the recipe that may differ from the run's, such as
            `training.learning_rate`; those that may are `run_identity.CHANGEABLE`.
    Raises: UserError (recipe, data or call at fault; every problem in it), StateRefused (the checkpoint belongs to
        another recipe or data), Diverged, OutOfResources, Stopped (asked to stop; resumable).
    """
    recipe = opened(recipe)
    run_page.sections_of(recipe.report.sections, recipe.where("report.sections"))  # or the page would fail at the end
    output_folder.refuse_among_inputs(recipe)
    run_identity.refuse_unchangeable(allow_change)
    display = display or Display(quiet=not is_main_process())
    several = len(seeds.seeds_of(recipe)) > 1
    train_recipe = seeds.train_each_seed if several else one_seed.train_one_seed
    with owners_alone(), joined():
        return train_recipe(recipe, resume=resume, overwrite=overwrite, allowed=allow_change, display=display)
