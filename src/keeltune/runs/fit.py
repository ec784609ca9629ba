"""The training itself: the trainer with what the recipe adds to it, stopped by signals, resumed from a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from keeltune.evaluation import budget_measure, split_scores
from keeltune.runs.start import Start
from keeltune.runs.training_log import Watcher
from keeltune.training import checkpoints, run_identity
from keeltune.training.arguments import training_arguments
from keeltune.training.early_stopping import EarlyStopped, EvaluationSchedule
from keeltune.training.job import Job
from keeltune.training.model_trial import refusing
from keeltune.training.monitoring import Monitoring
from keeltune.training.preparation.material import Material
from keeltune.training.step_loss import step_loss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.current_watch import wait_at_most
from keeltune.utils.distributed import barrier, is_main_process
from keeltune.utils.errors import Stopped
from keeltune.utils.progress import Display


def arguments_of(job: Job, folder: Path, schedule: EvaluationSchedule) -> TrainingArguments:
    """What the recipe says to transformers' Trainer."""
    material, spec = job.material, job.material.recipe.training
    return training_arguments(
        folder / checkpoints.FOLDER,
        spec,
        batch_size=material.batch_size,
        every=schedule.every or job.plan.steps,
        seed=material.recipe.seed,
    )


def fit(
    job: Job,
    folder: Path,
    arguments: TrainingArguments,
    schedule: EvaluationSchedule,
    start: Start,
    checkpoint: Path | None,
    display: Display,
) -> KeelTrainer:
    """Trains `job.model` and leaves the best weights in it.

    Raises: Stopped (by a signal; resumable), StateRefused (a checkpoint with weights that the model does not have; a
        file that is not what it was when it was read), UserError (a row that the model fails on).
    """
    watcher = Watcher(folder / "log.jsonl", display, is_main_process())
    wait_at_most(arguments.ddp_timeout)
    trainer = _trainer(job, folder, arguments, schedule, start, watcher)
    trainer.workers.patience = job.material.recipe.training.dataloader_timeout
    trainer.workers.locate = partial(_places, job.material)
    try:
        with display.bar("training", job.material.steps) as advance, _signals(trainer), trainer.workers.watched():
            watcher.advance = advance
            place = (job.material.recipe.where("model"), "model")
            with refusing(job.model, place), suppress(EarlyStopped):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.release()
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.training_totals.stopping and step < steps:
        barrier()  # who leaves first ends the others, one of whom may still be saving
        raise Stopped(
            f"stopped after step {step} of {steps}, which is saved in "
            f"{folder / 'checkpoints'}; go on with the same command and --resume"
        )
    if step < steps:
        display.say(
            f"training ended at step {step} of {steps}: {schedule.patience} "
            "evaluations without a gain (evaluation.patience: null trains on)"
        )
    trainer.load_best()
    return trainer


def _trainer(
    job: Job,
    folder: Path,
    arguments: TrainingArguments,
    schedule: EvaluationSchedule,
    start: Start,
    watcher: Watcher,
) -> KeelTrainer:
    validates = bool(job.material.rows["validation"])
    budget = budget_measure.budget(
        job, start.scores
    )  # its weight settles at the end alone: there is no best one before
    monitoring = Monitoring(
        validate=split_scores.validator(job) if validates else None,
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
        fresh=job.student.fresh,
        callbacks=[watcher, start.inputs],
    )


def _places(material: Material, keys: Collection[str]) -> dict[str, str]:
    """Where the rows of some keys are."""
    return {row.key: f"{row.file}:{row.line}" for rows in material.rows.values() for row in rows if row.key in keys}


@contextmanager
def _signals(trainer: KeelTrainer) -> Iterator[None]:
    """While training, the first Ctrl-C or SIGTERM asks for a stop at the next step's end; the second ends at once."""

    def ask(number: int, frame: Any) -> None:
        if trainer.training_totals.stop_asked:
            raise KeyboardInterrupt
        trainer.training_totals.stop_asked = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's signals are the caller's
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
