"""A run: its folder, its status, and `train`, which makes one (`seeds.train`: several, where a recipe asks for them).

    recipe.yaml  result.json  report.html  log.jsonl  model/  checkpoints/  predictions/{validation,test,source}.jsonl

Every file is written beside and then renamed, so that none is ever half there. `result.json` is the contract that
tools read; what is absent is null, never NaN.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed
import transformers

from keeltune.evaluation import (
    audit_report,
    bias_report,
    budget_measure,
    final_weights,
    forgetting_report,
    overfitting_report,
    overruled_labels,
    split_scores,
    teacher_report,
    test_set_looks,
)
from keeltune.models import loading, surgery
from keeltune.recipe import opened
from keeltune.recipe.fields import Recipe
from keeltune.reports import findings, model_card, run_page
from keeltune.runs import checkpoints
from keeltune.runs.result import result as make_result
from keeltune.runs.run_folder import Run, claim, finished, resource_limits, status_of, write_skipped
from keeltune.runs.training_log import Watcher
from keeltune.tasks.task import to_device
from keeltune.training import build, early_stopping
from keeltune.training.arguments import training_arguments
from keeltune.training.early_stopping import EarlyStopped
from keeltune.training.job import Job
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import SCORED
from keeltune.training.self_test import SELF_TEST_ROWS, self_test
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.distributed import barrier, is_main_process
from keeltune.utils.errors import Diverged, Problem, StateRefused, Stopped
from keeltune.utils.files import write_json, write_text
from keeltune.utils.progress import Display


@loading.quietly()
def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> Run:
    """One run of a recipe with one seed; arguments and errors are those of `seeds.train`, which makes several."""
    recipe = opened(recipe)
    if isinstance(recipe.training.seed, list) and len(set(recipe.training.seed)) > 1:
        raise ValueError(f"found {len(recipe.training.seed)} seeds, expected one; kt.train makes a run of each")
    main = is_main_process()
    display = display or Display(quiet=not main)
    folder = recipe.path(recipe.output)
    if main:  # the others would find what this process has already made
        claim(folder, resume=resume, overwrite=overwrite)
    with resource_limits(folder):
        material = prepare.prepare(recipe, progress=lambda what: display.say(f"{what} …"))
        for warning in material.warnings:
            display.say(f"warning: {warning}")
        if material.skipped:
            display.say(f"warning: {len(material.skipped)} rows skipped; they are listed in {folder / 'skipped.jsonl'}")
        identity = checkpoints.identity_of(material)
        checkpoint = checkpoints.newest(folder, identity, recipe, display) if resume else None
        if resume and (done := finished(folder)):
            display.say(f"{folder} holds a finished run; nothing is left to do")
            return done
        transformers.set_seed(recipe.seed)
        origin, precision = checkpoints.decided(folder) if checkpoint else (None, None)
        job = build.build(material, display, origin, precision)
        if main:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_text(folder / "recipe.yaml", recipe.dump())
            write_text(folder / "checkpoints" / "identity.json", json.dumps(identity, indent=1))
            checkpoints.keep_decided(folder, job, resumed=checkpoint is not None)
            write_skipped(folder, material)
        for note in (*material.notices, *job.student.notes, *surgery.batch_norm_notes(job.model)):
            display.say(note)
        display.say(_headline(job))
        with status_of(folder, recipe, main):
            return _train(job, folder, checkpoint, display, main)


def _train(job: Job, folder: Path, checkpoint: Path | None, display: Display, main: bool) -> Run:
    recipe, material = job.material.recipe, job.material
    spec = recipe.training
    schedule = early_stopping.evaluation_schedule(material)
    arguments = training_arguments(
        folder / "checkpoints",
        batch_size=material.batch_size,
        accumulation=spec.gradient_accumulation_steps,
        epochs=spec.epochs or 1,
        max_steps=spec.max_steps,
        every=schedule.every,
        learning_rate=spec.learning_rate,
        seed=recipe.seed,
        passed=spec.passed,
    )
    rows = job.plan.micro_batch(0, 0, 0)
    small = [*rows[:SELF_TEST_ROWS], *rows[-1:], *[row for row in rows if row.anchored][-1:]]
    batch = to_device(build.collated(job, small), job.device)
    if job.beside is None:
        self_test(job.model, material.task, job.objective, job.reference, batch)
    else:
        self_test(job.model, material.task, job.objective, None, batch)
        if "held" in batch:
            self_test(job.beside.model, job.beside.task, job.objective, job.reference, batch["held"])
    before = split_scores.before(job, folder, display, main)
    judged = teacher_report.teacher_report(job, before["validation"], display)
    for line in findings.teacher_findings(judged):
        display.say(line)
    overruled = overruled_labels.veto_report(job)
    for line in findings.veto_findings(overruled, taught=recipe.taught):
        display.say(line)
    watcher = Watcher(folder / "log.jsonl", display, main)
    budget = budget_measure.budget(job, before)  # its weight settles at the end alone: there is no best one before
    keeps = material.rows["validation"] and budget is None
    trainer = KeelTrainer(
        job.model,
        arguments,
        job.plan,
        task=material.task,
        objective=job.objective,
        reference=job.reference,
        matching=job.matching,
        autocast=job.autocast,
        validate=split_scores.validator(job) if material.rows["validation"] else None,
        schedule=schedule if budget is None else replace(schedule, patience=None, averages=False),
        best=folder / "checkpoints" / "best.safetensors" if keeps else None,
        budget=budget,
        beside=job.beside,
        l2_sp=_tether(job),
        regularizers=spec.regularizers,
        callbacks=[watcher],
    )
    if checkpoint is not None and (unexpected_keys := trainer.unexpected_keys(checkpoint)):
        found = f"{len(unexpected_keys)} weights that the model does not have ({unexpected_keys[0]}, …)"
        expected, fix = "the weights of this model, as this version saves them", "start anew with --overwrite"
        raise StateRefused(Problem(str(checkpoint), "checkpoint", found, expected, fix))
    try:
        with display.bar("training", material.steps) as advance, _signals(trainer):
            watcher.advance = advance
            with suppress(EarlyStopped):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.release()
    if trainer.training_totals.stopping and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved in "
            f"{folder / 'checkpoints'}; go on with the same command and --resume"
        )
    if trainer.state.global_step < trainer.state.max_steps:
        display.say(
            f"training ended at step {trainer.state.global_step} of {trainer.state.max_steps}: {schedule.patience} "
            "evaluations without a gain (evaluation.patience: null trains on)"
        )
    trainer.load_best()
    model = job.model
    if job.matching is not None:
        job.matching.detach(model)
    if broken := [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]:
        raise Diverged(f"{broken[0]} and {len(broken) - 1} more weights are not finite; lower learning_rate")
    if spec.lora is not None:
        if main:
            model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    settled = final_weights.choose_weights(job, model, before, display)
    if job.half is not None:
        for weight in model.parameters():  # what is scored is what is stored
            weight.data = weight.data.to(job.half).float()
    after = {split: split_scores.score(job, model, split, folder / "predictions", display, main) for split in SCORED}
    result = make_result(job, trainer, before, after, judged) | {
        "veto": overruled,
        "budget": final_weights.interpolation_entry(job, trainer.training_totals.trajectory, settled),
        "interpolation": settled.interpolation,
    }
    if main:
        loading.save(model, job.student.processor, folder / "model", half=job.half)
        if job.beside is not None and job.beside.task.choices == "labels":
            loading.save(job.beside.model, job.student.processor, folder / "source_model", half=job.half)
        with _no_loss("forgetting", display):
            result["forgetting"] = forgetting_report.forgetting(
                job, model, folder / "predictions", before, after, settled
            )
        with _no_loss("overfitting", display):
            result |= overfitting_report.overfitting_report(
                job, model, folder, after, trainer.state.log_history, result["forgetting"]
            )
            result["overfitting"]["averaged"] = trainer.pair_average is not None
        with _no_loss("audit", display):
            result["audit"] = audit_report.audit_report(material)
        with _no_loss("bias", display):
            result["bias"] = bias_report.report(job, model, folder, before, after)
        for line in (
            *findings.forgetting_findings(result),
            *findings.overfitting_findings(result),
            *findings.bias_findings(result),
        ):
            display.say(line)
        write_text(folder / "model" / "README.md", model_card.model_card(recipe, result))
        if tested := result["data"]["test"]:
            test_set_looks.look(folder, by="train", fingerprint=tested["fingerprint"], rows=tested["rows"])
        write_json(folder / "result.json", result)
        write_text(folder / "report.html", run_page.page(folder, result))
    barrier()
    return Run(folder, result)


@contextmanager
def _no_loss(what: str, display: Display) -> Iterator[None]:
    """A fault of ours in an analysis of a finished training is said, and costs that analysis, not the training."""
    try:
        yield
    except Exception as error:
        display.say(f"warning: no {what} in this report, by a bug of keeltune: {type(error).__name__}: {error}")


def _tether(job: Job) -> tuple[dict[str, torch.Tensor], float] | None:
    """The weights that L2-SP holds near what they are now, and how strongly: those that were not drawn at random."""
    strength = job.material.recipe.training.l2_sp
    if strength is None:
        return None
    own = {n: p for n, p in job.model.named_parameters() if p.requires_grad and n not in job.student.fresh}
    return {name: weight.detach().clone() for name, weight in own.items()}, strength


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


def _headline(job: Job) -> str:
    parameters = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    parts = [
        f"{job.material.recipe.task} · {job.material.recipe.method}",
        f"{parameters / 1e6:.1f} M trained parameters",
        f"{job.material.steps} steps of {job.plan.step_size} rows",
        f"{job.precision} on {job.device}",
    ]
    if used := job.material.recipe.training.regularizers.used:
        parts.append(", ".join(f"{name} {value}" for name, value in used.items()))
    if job.reference is not None:
        reason = f" ({job.origin.reason})" if job.origin.reason else ""
        parts.append(f"reference: {job.reference.kind}{reason}, weight {job.objective.weight:.3g}")
    return " · ".join(parts)
