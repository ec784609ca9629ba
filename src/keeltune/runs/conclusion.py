"""After training: which weights are kept, what they score, and everything that a finished run says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from keeltune.evaluation import (
    abilities,
    audit_report,
    bias_report,
    final_weights,
    forgetting_report,
    overfitting_report,
    split_scores,
)
from keeltune.evaluation.final_weights import FinalWeights
from keeltune.evaluation.scores import Scores
from keeltune.evaluation.stored_precision import stored_precision
from keeltune.models import saving, shared_weights
from keeltune.objective.stored_predictions import name_of
from keeltune.reports import model_card
from keeltune.reports.card import usage
from keeltune.reports.findings import bias, cut_answers, forgetting, overfitting
from keeltune.runs import digests, final_stage
from keeltune.runs import result as results
from keeltune.runs.run_folder import Run
from keeltune.runs.start import Start
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.preparation.material import LEARNT, SCORED
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.distributed import barrier, is_main_process
from keeltune.utils.errors import Diverged
from keeltune.utils.files import write_text
from keeltune.utils.progress import Display

LOOKED_AT = 100
"""Trained rows by which the model's card tells which columns are used."""


def conclude(job: Job, trainer: KeelTrainer, folder: Path, start: Start, display: Display) -> dict[str, Any]:
    """Chooses the weights, scores and saves them, and writes `result.json`, which is returned, and the pages.

    Raises: Diverged: weights that are not finite.
    """
    recipe = job.material.recipe
    model, final = _final_model(job, folder, start.scores, display)
    after = {split: split_scores.score(job, model, split, folder / "predictions", display) for split in SCORED}
    able = abilities.scores(job, model, folder / "predictions", display)
    result = results.completed(job, trainer, start.scores, after, start.teacher) | {
        "veto": start.overruled,
        "budget": final_weights.budget_entry(job, trainer.training_totals.trajectory, final),
        "interpolation": final.interpolation,
    }
    result["training"] |= {"stored": {"dtype": name_of(final.half or torch.float32), "lost": final.lost}}
    start.inputs.refuse_changes()
    if is_main_process():
        _save(job, model, folder, final.half)
        result |= _analyses(job, trainer, model, folder, (start.scores, after), final, display)
        with _never_fail("abilities", display):
            result["abilities"] = abilities.report(job, folder / "predictions", start.abilities, able)
        said = (*forgetting.findings(result), *overfitting.findings(result), *bias.findings(result))
        for line in (*cut_answers.findings(result["generation"]), *said):
            display.say(line)
        _write_cards(job, folder, result, final.half is not None, display)
        result = digests.seal(result | {"digests": digests.of_run(job, folder, start.inputs)})
        final_stage.publish(recipe, Run(folder, result))
        final_stage.drop_checkpoints(recipe, folder, display)
    barrier()
    return result


def _final_model(
    job: Job, folder: Path, before: Mapping[str, Scores | None], display: Display
) -> tuple[Any, FinalWeights]:
    """The model whose weights are kept, as it will be stored, and where they lie between start and end."""
    model = job.model
    if job.matching is not None:
        job.matching.detach(model)
    if broken := [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]:
        raise Diverged(f"{broken[0]} and {len(broken) - 1} more weights are not finite; lower learning_rate")
    if job.material.recipe.training.lora is not None:
        if is_main_process():
            saving.save_adapter(model, job.student.processor, folder / "adapter")
        four_bit = job.material.recipe.training.lora.base == "4bit"
        model = build.out_of_four_bits(job) if four_bit else model.float()
        for reference in job.live_reference.loaded:
            shared_weights.own(reference.model, model)
        model = model.merge_and_unload()  # what is scored is what is stored, and read again in float32
    final = final_weights.choose_weights(job, model, before, display)
    final.half, final.lost = stored_precision(job, model, display)
    if final.half is not None:
        for weight in model.parameters():  # what is scored is what is stored
            weight.data = weight.data.to(final.half).float()
    return model, final


def _save(job: Job, model: Any, folder: Path, half: torch.dtype | None) -> None:
    saving.save(model, job.student.processor, folder / "model", half=half)
    if job.anchor_head is not None and job.anchor_head.task.choices == "labels":
        saving.save(job.anchor_head.model, job.student.processor, folder / "source_model", half=half)


def _write_cards(job: Job, folder: Path, result: dict[str, Any], half: bool, display: Display) -> None:
    """The card of the model, and that of its adapter, where there is one."""
    material = job.material
    learnt = next((rows for split in LEARNT if (rows := material.rows.get(split))), ())
    rows = [learnt[i] for i in range(min(LOOKED_AT, len(learnt)))]
    for name in ("model", *(["adapter"] if material.recipe.training.lora is not None else [])):
        adapter, program = name == "adapter", None
        with _never_fail("program for use", display):
            program = usage.program(material.task, rows, adapter=adapter, half=half)
        trained = model_card.Trained(material.task, material.source, program, adapter)
        write_text(folder / name / "README.md", model_card.model_card(material.recipe, result, trained))


def _analyses(
    job: Job,
    trainer: KeelTrainer,
    model: Any,
    folder: Path,
    scores: tuple[Mapping[str, Scores | None], Mapping[str, Scores | None]],
    final: FinalWeights,
    display: Display,
) -> dict[str, Any]:
    """`forgetting`, `overfitting`, `calibration`, `audit` and `bias` of `result.json`; `scores`: before and after."""
    before, after = scores
    sections: dict[str, Any] = {}
    with _never_fail("forgetting", display):
        sections["forgetting"] = forgetting_report.forgetting(job, model, folder / "predictions", before, after, final)
    with _never_fail("overfitting", display):
        history = trainer.state.log_history
        sections |= overfitting_report.overfitting_report(
            job, model, folder, after, history, sections.get("forgetting")
        )
        sections["overfitting"]["averaged"] = trainer.pair_average is not None
    with _never_fail("audit", display):
        sections["audit"] = audit_report.audit_report(job.material)
    with _never_fail("bias", display):
        sections["bias"] = bias_report.report(job, model, folder, before, after)
    return sections


@contextmanager
def _never_fail(what: str, display: Display) -> Iterator[None]:
    """A fault of ours in an analysis of a finished training is said, and costs that analysis, not the training."""
    try:
        yield
    except Exception as error:
        display.say(f"warning: no {what} in this report, by a bug of keeltune: {type(error).__name__}: {error}")
