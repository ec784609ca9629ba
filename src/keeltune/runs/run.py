"""`kt.train`: a recipe becomes a finished run; a recipe of several seeds a run of each, and their pool above them.

    claim the folder -> import what trains -> train, or train each seed

The folder is claimed before anything heavy is imported, and signals are heard from then on to the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeltune.recipe import opened
from keeltune.recipe.fields import Recipe
from keeltune.runs import claim, output_folder, run_folder
from keeltune.runs.kept_rows import with_files
from keeltune.runs.last_line import last_line, last_line_of, stops_as_errors
from keeltune.runs.run_folder import Run
from keeltune.utils import current_watch, stop_signals
from keeltune.utils.collection import paused_collection
from keeltune.utils.current_watch import other_ranks_errors
from keeltune.utils.distributed import is_main_process, world_size
from keeltune.utils.errors import CallbackFailed
from keeltune.utils.files import owners_alone
from keeltune.utils.process_group import joined
from keeltune.utils.progress import Display
from keeltune.utils.system_faults import system_faults


def refuse_at_once(recipe: Recipe, *, overwrite: bool = False) -> None:
    """What `train` refuses of an output folder, before a recipe is read to its end: another process is at work there,
    or it cannot be written to. UserError."""
    folder = recipe.path(recipe.output)
    with last_line_of(recipe, "--overwrite" if overwrite else "--resume"), system_faults(folder):
        if world_size() == 1:  # of several processes the others would wait for one that is refused here
            output_folder.refuse_unwritable(folder)
            claim.refuse_in_use(folder)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Within: what a callback of the caller's raised reaches the caller as it was raised, with the place and with what
    is safe on disk."""
    try:
        yield
    except CallbackFailed as failed:
        for note in (str(failed), *getattr(failed, "__notes__", ())):
            failed.error.add_note(note)
        raise failed.error from failed.error.__cause__


@_own_errors()
def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Collection[str] = (),
    display: Display | None = None,
    callbacks: Sequence[Any] = (),
) -> Run:
    """Trains and evaluates after a recipe, and writes its run folder; of several seeds one each, and their pool.

    Args:
        recipe: a YAML file's path, a `Recipe`, or a mapping as YAML would give it, whose data may be rows in memory:
            mappings, a pandas or polars frame, a `datasets.Dataset` (`kept_rows`).
        resume: go on from the newest checkpoint in `output`; the run ends as if it had not been interrupted.
        overwrite: remove an earlier run from `output` first.
        allow_change: with `resume`, the fields of the recipe that may differ from the run's, such as
            `training.learning_rate`; those that may are `run_identity.CHANGEABLE`.
        callbacks: `transformers.TrainerCallback` objects, stock ones or your own, called as a stock Trainer calls them;
            of several seeds in each training, one after the other. They are no part of the run's identity: a run goes
            on with others, or with none. A training that one of them stops is measured there and is a finished run.
            What one raises, the caller gets, with a note that says where; the run can be gone on with.
    Raises: UserError (recipe, data or call at fault; every problem in it), StateRefused (the checkpoint belongs to
        another recipe or data), Diverged, OutOfResources, Stopped (asked to stop by Ctrl-C, SIGTERM or SIGHUP, which
        are heard in the main thread; resumable), KeyboardInterrupt (asked twice). Each has a note that says what is
        safe on disk, and what goes on.
    """
    recipe, display = opened(with_files(recipe)), display or Display(quiet=not is_main_process())
    folder = recipe.path(recipe.output)
    first = "--overwrite" if overwrite else ""
    with owners_alone(), stop_signals.listened(), last_line_of(recipe, first) as ended, joined(), stops_as_errors():
        output_folder.refuse_among_inputs(recipe)
        ending = current_watch.on_hard_end(lambda error: error.add_note(last_line(error, recipe, ended)))
        with ending, system_faults(folder), claim.claimed(folder, resume=resume, overwrite=overwrite, display=display):
            ended.option = "--resume"
            with run_folder.status_of(folder, recipe) as progress, other_ranks_errors():
                with paused_collection():  # seconds of imports, after all that may refuse the call
                    from keeltune.runs.one_seed import train_one_seed
                    from keeltune.runs.seeds import seeds_of, train_each_seed
                    from keeltune.training import run_identity
                    from keeltune.training.given_callbacks import GivenCallbacks

                stop_signals.raise_if_asked()  # in an import that went on all the same
                run_identity.refuse_unchangeable(allow_change)
                given = GivenCallbacks(callbacks)
                train_recipe = train_each_seed if len(seeds_of(recipe)) > 1 else train_one_seed
                return train_recipe(recipe, progress, resume=resume, display=display, allowed=allow_change, given=given)
