"""One recipe with several seeds: a run folder for each, and above them what they have in common.

seed-0/ seed-1/ …     whole runs of their own
recipe.yaml  result.json  report.html     the pool (`pooling`)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from keeltune.evaluation import overfitting, test_set_looks
from keeltune.recipe import load, parse
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import digests, one_seed, opened_model, pooling, run_folder
from keeltune.runs.run_folder import Run
from keeltune.runs.stored_result import read_result
from keeltune.training import checkpoints, run_identity
from keeltune.utils import distributed
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import write_json, write_text
from keeltune.utils.progress import Display

RESTARTS = 2
"""How often a seed whose training failed is tried with another one."""

ANOTHER = 1000
"""What is added to a failed seed."""


def seeds_of(recipe: Recipe) -> list[int]:
    """The recipe's seeds, each once."""
    seed = recipe.training.seed
    return list(dict.fromkeys(seed)) if isinstance(seed, list) else [seed]


def train_each_seed(
    recipe: Recipe, *, resume: bool, overwrite: bool, display: Display, allowed: Collection[str] = ()
) -> Run:
    """`runs.run.train` of a recipe with several seeds."""
    main = distributed.is_main_process()
    folder = recipe.path(recipe.output)
    if main:
        run_folder.claim(folder, resume=resume, overwrite=overwrite)
        if resume:
            _refuse_another_recipe(folder, recipe, allowed)
        write_text(folder / "recipe.yaml", recipe.dump(folder))
    with run_folder.status_of(folder, recipe, main):
        one_seed_of = partial(_run, recipe, display=display, resume=resume, allowed=allowed)
        runs, failed = _runs(recipe, folder, display, one_seed_of)
        if not main:
            return Run(folder, {})
        result = pooling.pool(opened_model.tasks_of(runs[0].folder, outside=True), runs, failed)
        if (tested := result["data"]["test"]) and not (folder / "result.json").is_file():
            test_set_looks.look(folder, by="train", fingerprint=tested["fingerprint"], rows=tested["rows"])
        result = digests.seal(result | {"digests": digests.of_pool(folder)})
        write_json(folder / "result.json", result)
        write_text(folder / "report.html", run_page.page(folder, result, recipe.report.sections))
    return Run(folder, result)


def _refuse_another_recipe(folder: Path, recipe: Recipe, allowed: Collection[str]) -> None:
    """StateRefused where the folder's seeds are of another recipe, or the folder is a single run's."""
    if not (folder / "recipe.yaml").is_file():
        return
    then, now = (
        parse(one.dump(), folder=folder).model_dump(mode="json", by_alias=True, exclude={"output", "report"})
        for one in (load(folder / "recipe.yaml"), recipe)
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


def _run(recipe: Recipe, output: Path, seed: int, *, display: Display, resume: bool, allowed: Collection[str]) -> Run:
    training = recipe.training.model_copy(update={"seed": seed})
    of_one_seed = recipe.model_copy(update={"training": training, "output": str(output)})
    return one_seed.train_one_seed(of_one_seed, resume=resume, overwrite=False, display=display, allowed=allowed)


def _failed(folder: Path) -> list[dict[str, Any]]:
    """The seeds that learnt nothing, each with the reason."""
    results = [read_result(failed) for failed in sorted(folder.glob("seed-*-failed"))]
    return [{"seed": result["training"]["seed"], "reason": overfitting.stuck(result)} for result in results]
