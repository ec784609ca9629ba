"""One recipe with several seeds: a run folder for each, and above them what they have in common.

seed-0/ seed-1/ …     whole runs of their own
recipe.yaml  result.json  report.html     the pool (`pooling`)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from keeltune.evaluation import overfitting
from keeltune.models import loading
from keeltune.recipe import load, parse
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import claim, digests, final_stage, one_seed, opened_model, pooling, run_folder
from keeltune.runs.run_folder import Progress, Run
from keeltune.runs.stored_result import read_result
from keeltune.training import checkpoints, run_identity
from keeltune.training.given_callbacks import GivenCallbacks
from keeltune.utils import distributed
from keeltune.utils.current_watch import other_ranks_errors
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display

RESTARTS = 2
"""How often a seed whose training failed is tried with another one."""

ANOTHER = 1000
"""What is added to a failed seed."""


def seeds_of(recipe: Recipe) -> list[int]:
    """The recipe's seeds, each once."""
    seed = recipe.training.seed
    return list(dict.fromkeys(seed)) if isinstance(seed, list) else [seed]


@loading.quiet_transformers()
def train_each_seed(
    recipe: Recipe,
    progress: Progress,
    *,
    resume: bool,
    display: Display,
    allowed: Collection[str] = (),
    given: GivenCallbacks,
) -> Run:
    """`runs.run.train` of a recipe with several seeds, in a folder that is claimed."""
    folder = recipe.path(recipe.output)
    run_page.sections_from_elsewhere(
        recipe.report.sections, recipe.where("report.sections")
    )  # or the page would fail at the end
    recipe = run_identity.as_begun(folder, recipe) if resume else recipe
    if main := distributed.is_main_process():
        if resume:
            _refuse_another_recipe(folder, recipe, allowed)
        write_text(folder / "recipe.yaml", recipe.dump(folder))
    progress.began = True
    one_seed_of = partial(_run, recipe, display=display, resume=resume, allowed=allowed, given=given)
    runs, failed = _runs(recipe, folder, display, one_seed_of)
    if not main:
        return Run(folder, {})
    result = pooling.pool(opened_model.tasks_of(runs[0].folder, outside=True), runs, failed)
    run = Run(folder, digests.seal(result | {"digests": digests.of_pool(folder)}))
    final_stage.publish(recipe, run)
    return run


def _refuse_another_recipe(folder: Path, recipe: Recipe, allowed: Collection[str]) -> None:
    """StateRefused where the folder's seeds are of another recipe, or the folder is a single run's."""
    if not (folder / "recipe.yaml").is_file():
        return
    then, now = (
        run_identity.shaping(parse(one.dump(), folder=folder)) for one in (load(folder / "recipe.yaml"), recipe)
    )
    run_identity.refuse_changes(folder, {"recipe": then}, {"recipe": now}, recipe, allowed)
    if (folder / checkpoints.FOLDER / run_identity.RUN).is_file():
        found, fix = "a run of one seed", "name another folder, or start over with --overwrite"
        raise StateRefused(Problem(str(folder), "training.seed", found, "runs of several seeds", fix))


def _runs(
    recipe: Recipe, folder: Path, display: Display, one_seed_of: Callable[[Path, int], Run]
) -> tuple[list[Run], list[dict[str, Any]]]:
    """Trains the seeds that are not finished yet: their runs, and the seeds that failed and were replaced.

    A training that has learnt nothing (`overfitting.stuck`) is tried again with another seed; the failed run's folder
    stays, as `seed-N-failed`.
    """
    runs, seeds = [], seeds_of(recipe)
    taken = set(seeds)
    for number, seed in enumerate(seeds, 1):
        others = (seed + ANOTHER * n for n in range(1, (1 + RESTARTS) * len(seeds) + 1))
        candidates = [seed, *[other for other in others if other not in taken][:RESTARTS]]
        taken.update(candidates)
        for candidate in candidates:
            if (folder / f"seed-{candidate}-failed").is_dir():
                continue
            display.say(f"seed {candidate} ({number} of {len(seeds)})")
            run = one_seed_of(folder / f"seed-{seed}", candidate)
            reason = distributed.gathered(overfitting.stuck(run.result))[0]
            if reason is None or candidate == candidates[-1]:
                break
            display.say(f"warning: seed {candidate} failed: {reason}; another one is tried")
            if distributed.is_main_process():
                run.folder.rename(folder / f"seed-{candidate}-failed")
            distributed.barrier()
        runs.append(run)
    return runs, _failed(folder)


def _run(recipe: Recipe, output: Path, seed: int, **options: Any) -> Run:
    """One seed's run; `options` as of `one_seed.train_one_seed`, without the progress."""
    training = recipe.training.model_copy(update={"seed": seed})
    of_one_seed = recipe.model_copy(update={"training": training, "output": str(output)})
    if distributed.is_main_process():
        claim.take_over(output, resume=options["resume"], overwrite=False)
    with run_folder.status_of(output, of_one_seed) as progress, other_ranks_errors():
        return one_seed.train_one_seed(of_one_seed, progress, **options)


def _failed(folder: Path) -> list[dict[str, Any]]:
    """The seeds that learnt nothing, each with the reason."""
    results = [read_result(failed) for failed in sorted(folder.glob("seed-*-failed"))]
    return [{"seed": result["training"]["seed"], "reason": overfitting.stuck(result)} for result in results]
