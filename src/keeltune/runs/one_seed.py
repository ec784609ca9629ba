"""One run of one seed, from its recipe to its folder.

    prepare the data -> build what trains -> measure the start -> fit -> conclude

    recipe.yaml  result.json  report.html  log.jsonl  model/  checkpoints/  predictions/{validation,test,source}.jsonl

Every file is written under another name and then renamed, so that none is ever half there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import transformers

from keeltune.models import loading, surgery
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import conclusion, disk_estimate, final_stage, fit, start
from keeltune.runs import result as results
from keeltune.runs.inputs import Inputs
from keeltune.runs.run_folder import Progress, Run, finished, write_skipped
from keeltune.training import build, early_stopping, run_identity, tracking
from keeltune.training.given_callbacks import GivenCallbacks
from keeltune.training.job import Job
from keeltune.training.memory_advice import smaller_batch
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import Material
from keeltune.training.run_identity import Found
from keeltune.utils.device import device_note
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import Stopped
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display
from keeltune.utils.system_faults import system_faults


@loading.quiet_transformers()
def train_one_seed(
    recipe: Recipe,
    progress: Progress,
    *,
    resume: bool,
    display: Display,
    allowed: Collection[str] = (),
    given: GivenCallbacks,
) -> Run:
    """`runs.run.train` of a recipe with one seed, in a folder that is claimed; `progress` is told how far it is."""
    folder = recipe.path(recipe.output)
    run_page.sections_from_elsewhere(
        recipe.report.sections, recipe.where("report.sections")
    )  # or the page would fail at the end
    with system_faults(folder, smaller=smaller_batch(recipe.training)):
        inputs = Inputs.of(recipe)
        asked = recipe
        material = _prepared(asked, folder, display, resume)
        recipe = material.recipe
        inputs.note(material)
        progress.known |= results.of_material(material)
        identity = run_identity.identity_of(material)
        found = run_identity.NOTHING
        if resume:
            found = run_identity.newest(folder, identity, asked, display, allowed)
            if done := _finished(material, found, identity, display):
                return done
        transformers.set_seed(recipe.seed)
        job = build.build(material, display, *found.decided)
        if is_main_process():
            write_text(folder / "recipe.yaml", recipe.dump(folder))
            run_identity.start_run(folder, identity, job, found, final_stage.next_number(folder))
            write_skipped(folder, material.skipped)
        progress.began = True
        for note in (*material.notices, *job.student.notes, *surgery.batch_norm_notes(job.model), device_note()):
            if note:
                display.say(note)
        display.say(_headline(job))
        return _train(job, inputs, found.checkpoint, progress, display, given)


def _finished(material: Material, found: Found, identity: Mapping[str, Any], display: Display) -> Run | None:
    """The run that is finished and whole, its page written again where that was not; None where there is work to do."""
    recipe = material.recipe
    folder = recipe.path(recipe.output)
    if (done := finished(folder)) is None:
        if found.checkpoint is None:
            display.say(f"{folder} holds no checkpoint yet; starting from the beginning")
        return None
    if found.run and final_stage.goes_further(done, material, found.run["identity"], identity):
        if found.checkpoint is None:
            final_stage.refuse_further(done, material)
        display.say(f"{folder} holds a finished run, which is trained on to step {material.steps}")
        return None
    if missing := final_stage.missing_parts(done):
        final_stage.refuse_irreparable(folder, missing, found.checkpoint)
        display.say(f"{folder} holds a finished run that is not whole, and is made whole again: {'; '.join(missing)}")
        return None
    if is_main_process():
        final_stage.renew_page(recipe, done, display)
        final_stage.drop_checkpoints(recipe, folder, display)
    display.say(f"{folder} holds a finished run; nothing is left to do")
    return done


def _prepared(recipe: Recipe, folder: Path, display: Display, resume: bool) -> Material:
    begun: dict[str, int | float] = {}
    if resume:
        then = run_identity.begun_with(folder)
        begun, recipe = run_identity.rates_as_begun(then), run_identity.rows_as_begun(then, recipe)
    material = prepare.prepare(recipe, progress=lambda what: display.say(f"{what} …"), begun=begun)
    for warning in material.warnings:
        display.warn(warning)
    if material.skipped:
        display.say(f"warning: {len(material.skipped)} rows skipped; they are listed in {folder / 'skipped.jsonl'}")
    return material


def _train(
    job: Job, inputs: Inputs, checkpoint: Path | None, progress: Progress, display: Display, given: GivenCallbacks
) -> Run:
    folder = job.material.recipe.path(job.material.recipe.output)
    schedule = early_stopping.evaluation_schedule(job.material)
    arguments = fit.arguments_of(job, folder, schedule)
    if is_main_process():
        disk_estimate.refuse_if_short(job.material, job.model, folder, half=job.half is not None)
    before = start.measure(job, inputs, folder, display)
    progress.known |= results.of_start(before.scores)
    trainer = fit.fit(job, arguments, schedule, before, checkpoint, display, given)
    with tracking.told_at_the_end(trainer) as tell:
        if fit.is_stopped(trainer):
            progress.known |= results.of_training(job, trainer)
            raise Stopped(f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}")
        result = conclusion.conclude(job, trainer, folder, before, display)
        tell(result, (folder / "recipe.yaml").read_text(encoding="utf-8"))
    return Run(folder, result)


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
        reason = f" ({job.reference_source.reason})" if job.reference_source.reason else ""
        parts.append(f"reference: {job.reference.kind}{reason}, weight {job.objective.weight:.3g}")
    return " · ".join(parts)
