"""The training itself: the trainer with what the recipe adds to it, stopped by signals, resumed from a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import TrainingArguments

from keeltune.evaluation import budget_measure, split_scores
from keeltune.runs.start import Start
from keeltune.runs.training_log import Watcher
from keeltune.training import checkpoints, run_identity, sharding, tracking
from keeltune.training.arguments import training_arguments
from keeltune.training.early_stopping import EvaluationSchedule
from keeltune.training.early_stopping_callback import EarlyStopped
from keeltune.training.given_callbacks import GivenCallbacks
from keeltune.training.job import Job
from keeltune.training.model_trial import refusing
from keeltune.training.monitoring import Monitoring
from keeltune.training.new_weights import NewWeights
from keeltune.training.preparation.material import Material
from keeltune.training.step_loss import step_loss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import stop_signals
from keeltune.utils.current_watch import wait_at_most
from keeltune.utils.distributed import barrier, is_main_process, summed_over_ranks
from keeltune.utils.progress import Display


def arguments_of(job: Job, folder: Path, schedule: EvaluationSchedule) -> TrainingArguments:
    """What the recipe says to transformers' Trainer."""
    material, spec = job.material, job.material.recipe.training
    arguments = training_arguments(
        folder / checkpoints.FOLDER,
        spec,
        batch_size=material.batch_size,
        every=schedule.every or job.plan.steps,
        seed=material.recipe.seed,
        steps=material.steps,
    )
    arguments.recipe = tracking.flat(material.recipe.written(folder))
    return arguments


def fit(
    job: Job,
    arguments: TrainingArguments,
    schedule: EvaluationSchedule,
    start: Start,
    checkpoint: Path | None,
    display: Display,
    given: GivenCallbacks,
) -> KeelTrainer:
    """Trains `job.model` and leaves the best weights in it.

    A signal's stop is saved after the step that it met (`is_stopped`).
    Raises: StateRefused (a checkpoint with weights that the model does not have; a file that is not what it was when it
        was read), UserError (a row that the model fails on), CallbackFailed (one of those that are `given` raised).
    """
    folder = job.material.recipe.path(job.material.recipe.output)
    watcher = Watcher(folder / "log.jsonl", display, is_main_process())
    wait_at_most(arguments.ddp_timeout)
    shards = sharding.shard(job)
    arguments.placed = shards is not None
    with _told_apart(given):
        trainer = _trainer(job, folder, arguments, schedule, start, watcher, given)
    trainer.workers.patience = job.material.recipe.training.dataloader_timeout
    trainer.workers.locate = partial(_places, job.material)
    try:
        asking = stop_signals.handed_to(partial(_ask, trainer, display))
        with display.bar("training", job.material.steps) as advance, asking, trainer.workers.watched():
            watcher.advance = advance
            place = (job.material.recipe.where("model"), "model")
            with refusing(job.model, place), suppress(EarlyStopped), _told_apart(given, trainer):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except BaseException:
        tracking.close(trainer)
        raise
    finally:
        watcher.progress.end()
        trainer.release()
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.training_totals.stopping and step < steps:
        barrier()  # who leaves first ends the others, one of whom may still be saving
        return trainer
    if step < steps:
        gainless = f"{schedule.patience} evaluations without a gain (evaluation.patience: null trains on)"
        asked = "a callback asked for it (control.should_training_stop)"
        display.say(
            f"training ended at step {step} of {steps}: {gainless if trainer.out_of_patience(trainer.state) else asked}"
        )
    trainer.load_best()
    if shards is not None:
        trainer.model = trainer.model_wrapped = shards.gather()
    return trainer


@contextmanager
def _told_apart(given: GivenCallbacks, trainer: KeelTrainer | None = None) -> Iterator[None]:
    """Within: CallbackFailed in place of what a callback of the caller's raises."""
    try:
        yield
    except Exception as error:
        if (failed := given.failure(error, trainer and trainer.state)) is None:
            raise
        raise failed from error


def is_stopped(trainer: KeelTrainer) -> bool:
    """Whether a signal ended the training, of whichever process; in all of them at once, who agree on it.

    One that came in the last step ended nothing, but the run is to stop all the same.
    """
    asked = trainer.training_totals.stop_asked or stop_signals.asked()
    return summed_over_ranks(torch.tensor([float(asked)]), trainer.args.device).item() > 0


def _ask(trainer: KeelTrainer, display: Display) -> None:
    """Asks for a stop at the next step's end, and says so at once: who hears nothing of a slow step asks again.

    It is said in a thread, as a signal may come while this one writes.
    """
    trainer.training_totals.stop_asked = True
    words = "stopping: this step is finished and saved first; asked once more, it ends at once"
    threading.Thread(target=display.say, args=(words,), daemon=True).start()


def _trainer(
    job: Job,
    folder: Path,
    arguments: TrainingArguments,
    schedule: EvaluationSchedule,
    start: Start,
    watcher: Watcher,
    given: GivenCallbacks,
) -> KeelTrainer:
    validates = bool(job.material.rows["validation"])
    budget = budget_measure.budget(
        job, start.scores
    )  # its weight settles at the end alone: there is no best one before
    monitoring = Monitoring(
        validate=split_scores.validator(job, watcher.progress.show) if validates else None,
        schedule=schedule if budget is None else replace(schedule, patience=None, averages=False),
        keeps_best=validates and budget is None,
        budget=budget,
        run=run_identity.run_of(folder) if is_main_process() else {},
    )
    return KeelTrainer(
        job.model,
        arguments,
        job.plan,
        step_loss(job),
        monitoring=monitoring,
        fresh=NewWeights(tuple(job.student.fresh), job.material.recipe.training.rates[1]),
        callbacks=[watcher, start.inputs, *given.begin()],
    )


def _places(material: Material, keys: Collection[str]) -> dict[str, str]:
    """Where the rows of some keys are."""
    return {row.key: f"{row.file}:{row.line}" for rows in material.rows.values() for row in rows if row.key in keys}
