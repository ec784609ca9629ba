"""The third step of a preparation: rows become examples, as the student and each reference read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keeltune.data.dataset import Row
from keeltune.models import loading, processors, shapes, surgery
from keeltune.models.attention_choice import attention_problem
from keeltune.models.four_bit import four_bit_problem
from keeltune.models.generation import stored_generation
from keeltune.models.lora import adapter_problem
from keeltune.models.vocabulary import CTC, bounds_of, read_by_all
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import StudentFrom
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.training.matching_terms import matching_problems
from keeltune.training.preparation.anchor_task import anchor_task_of
from keeltune.training.preparation.compatibility import (
    ComparedStudent,
    ReferenceFiles,
    companions_of,
    compatible_references,
)
from keeltune.training.preparation.encoded_rows import RowExamples, Shelf
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.labelling import Labelled
from keeltune.training.preparation.lengths import generation_length, reading_length, writing_length
from keeltune.training.preparation.number_checks import number_problems
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.reading import Reading
from keeltune.training.preparation.row_encoding import encode_splits
from keeltune.training.preparation.scoring_language import settle
from keeltune.training.preparation.splits import emptied_splits
from keeltune.training.preparation.task_checks import loss_problems, packing_problems, task_problems
from keeltune.training.regularization import regularizer_problems
from keeltune.utils.errors import Problem, UserError


@dataclass(frozen=True)
class Encoded:
    """The rows that the student can take, and their examples.

    task          as the student reads and writes it, with the companions that references need
    references    the models of the reference that are compared with the student
    anchor_task   the task of the second head, which encodes the scored rows of the source domain; or None
    source_task   the task that scores the rows of the source domain otherwise: `task`, or in their language
    """

    task: Task
    references: list[ReferenceFiles]
    anchor_task: Task | None
    source_task: Task
    rows: dict[str, Sequence[Row]]
    examples: dict[str, RowExamples]


def encode(recipe: Recipe, reading: Reading, labelled: Labelled, log: ProblemLog, limit: int | None = None) -> Encoded:
    """Compares the references with the student and encodes every row, or `limit` of each split. Needs a `reading`
    without errors."""
    config, processor, auto_model = reading.student.config, reading.student.processor, reading.student.auto_model
    assert reading.source is not None and auto_model is not None
    processors.prepare_tokenizer(config, processor, spells=auto_model == CTC)  # as training will have it
    settings = _settings(recipe, reading.task_class, labelled, config, processor, auto_model)
    if reading.task_class.generates:
        own = stored_generation(None if reading.source == NEW else reading.source, config, recipe.where("model"))
        settings = replace(settings, decoding=recipe.generation.decoding(), stored=own)
    _check_surgery(recipe, config, auto_model)
    student = ComparedStudent(recipe, reading.task_class, processor, settings, labelled.rows)
    references = compatible_references(student, [] if reading.reference_is_start else reading.reference_models)
    log.notices += [files.notice for files in references if files.notice]
    if settings.max_new_tokens < (recipe.generation.max_new_tokens or 0):
        log.notices.append(f"max_new_tokens is {settings.max_new_tokens}: the model has places for no more")
    alike = [files.bounds for files in references if files.companion is None and not student.only_writes]
    settings = replace(settings, bounds=read_by_all(settings.bounds, alike))
    task = reading.task_class(processor, settings, companions_of(references))
    log.errors += [*task_problems(task, recipe), *regularizer_problems(recipe, task), *matching_problems(recipe)]
    log.errors += [*packing_problems(recipe, task), *number_problems(recipe, task)]
    task, source_task = settle(recipe, task, labelled.rows, log)
    anchor_task = None
    if recipe.objective.anchor_head != "task":
        anchor_task = anchor_task_of(recipe, task, labelled.choice.head, reading.source)
    rows, examples, faulty = encode_splits(task, labelled.rows, anchor_task, limit, Shelf(recipe.folder / ".cache"))
    log.add_of_rows(faulty)
    for said in [] if log.errors else loss_problems(recipe, task, examples):  # whose metrics are known to be some
        (log.errors if isinstance(said, Problem) else log.notices).append(said)  # type: ignore[arg-type]
    if log.skips_rows:
        log.errors += emptied_splits(recipe, rows, faulty)
    return Encoded(task, references, anchor_task, source_task, rows, examples)


def _settings(
    recipe: Recipe, task_class: type[Task], labelled: Labelled, config: Any, processor: Any, auto_model: str
) -> Settings:
    where, languages = recipe.where("model"), recipe.languages
    shape = shapes.shape_of(config, auto_model, where)
    if problem := loading.misfit(shape, processor):
        raise UserError(Problem(where, "model", *problem))
    max_length = reading_length(recipe.max_length, shape, processor, task_class, recipe.where("max_length"))
    return Settings(
        labelled.choice.names,
        max_length,
        recipe.data.multi_label,
        labelled.class_weights,
        config,
        auto_model,
        bounds_of(shape),
        writing_length(recipe.target_max_length, shape, max_length),
        recipe.asked,
        (languages.source, languages.target) if languages else None,
        recipe.generation.beams,
        generation_length(recipe.generation.max_new_tokens, shape, max_length),
        recipe.evaluation.added_metrics,
        recipe.evaluation.chosen_by,
        recipe.evaluation.directions,
        bleu_tokenizer=recipe.evaluation.bleu_tokenizer,
        packing=recipe.training.packing,
        normalizer=recipe.evaluation.normalizer,
        spellings=processors.spellings(processor),
    )


def _check_surgery(recipe: Recipe, config: Any, auto_model: str) -> None:
    """Whether the layers that the recipe keeps are there, the modules that get an adapter, and the attention."""
    if isinstance(recipe.model, StudentFrom):
        where = recipe.where("model.layers")
        surgery.student_config(config, auto_model, recipe.model.chosen_layers, where, "model.layers")
    if lora := recipe.training.lora:
        if lora.base == "4bit" and (problem := four_bit_problem(recipe.where("training.lora.base"))):
            raise UserError(problem)
        where = recipe.where("training.lora.target_modules")
        if problem := adapter_problem(config, auto_model, lora.target_modules, where):
            raise UserError(problem)
    if (name := recipe.training.attention) != "auto":
        if problem := attention_problem(config, auto_model, name, recipe.where("training.attention")):
            raise UserError(problem)
        config._attn_implementation = name  # by which packing lays texts out
