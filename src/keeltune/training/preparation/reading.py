"""The first step of a preparation: what a recipe names is found and read. Nothing is labelled or compared yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.models import configuration, initialization, loading, model_files, processors
from keeltune.recipe.data_validation import format_faults
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.recipe.objective_validation import parameter_faults
from keeltune.recipe.reference_validation import class_faults
from keeltune.recipe.task_names import task_named, unknown_task
from keeltune.recipe.task_validation import writing_fields
from keeltune.tasks.task import Task
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.splits import SplitReader, read_splits, task_columns
from keeltune.training.preparation.variants import why_no_variants
from keeltune.training.reference_choice import is_start, named_models
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, shown


@dataclass(frozen=True)
class StudentFiles:
    """The student's configuration and processor, and the class that loads it; each None where it cannot be read.

    untrained   the weights of its head that its folder does not hold
    """

    config: Any = None
    processor: Any = None
    auto_model: str | None = None
    untrained: Sequence[str] = ()


@dataclass(frozen=True)
class Reading:
    """What a recipe names, as it was read.

    source               where the student's weights lie; NEW for random ones; None where that is nowhere
    reference_models     where the reference's lie
    reference_is_start   whether the reference is the student as it was before training
    rows                 those of each split, faults of single rows taken out
    """

    task_class: type[Task]
    columns: Sequence[Column]
    source: str | None
    student: StudentFiles
    reference_models: list[str]
    reference_is_start: bool
    rows: dict[str, Sequence[Row]]


def _outside_faults(recipe: Recipe) -> list[Problem]:
    """What is wrong with names from outside the package, which are imported now, and by no recipe that is only read."""
    problems = list(class_faults(recipe))
    if ":" in (recipe.data.format or ""):
        problems += format_faults(recipe)
    if ":" in recipe.objective.divergence_name:
        problems += parameter_faults(recipe)
    return problems


def read(recipe: Recipe, log: ProblemLog, progress: Callable[[str], None], *, in_files: bool = False) -> Reading:
    """Finds the models and reads rows, configurations and processors; what fails goes to `log`.

    in_files   whether rows stay in their files (`StoredRows`), where they are not for training
    """
    task_class = find_task(recipe.task, recipe.where("task"))
    log.notices += [recipe.understood] if recipe.understood else []
    if problems := _outside_faults(recipe):
        raise UserError(problems)
    progress("reading models")
    source = log.collect(lambda: _locate_student(recipe))
    task_class = _for_model(recipe, task_class, source, log)
    columns = task_columns(task_class, recipe.data.multi_label, recipe.data.labels)
    if recipe.data.augment and (reason := why_no_variants(task_class)):
        where, expected = recipe.where("data.augment"), f"no variants of texts for {recipe.task}: {reason}"
        log.errors.append(Problem(where, "data.augment", shown("augment"), expected, "leave it out"))
    reference_models = log.collect(lambda: named_models(recipe)) or []
    progress("reading data")
    rows = read_splits(SplitReader(recipe, task_class, columns, log, in_files))
    student = _read_student(recipe, task_class, source, rows["train"], log)
    from_start = source is not None and is_start(recipe, reference_models, source)
    return Reading(task_class, columns, source, student, reference_models, from_start, rows)


def find_task(name: str, where: str, field_name: str = "task") -> type[Task]:
    """The task `name` stands for; UserError where there is none, or where its module cannot be imported."""
    try:
        task_class: type[Task] = registry.find("tasks", task_named(name))
    except (LookupError, ImportError, AttributeError) as error:
        expected = f"a task ({', '.join(registry.names('tasks'))}) or my_package.my_module:MyTask"
        fix = str(error) if ":" in name else unknown_task(name)
        raise UserError(Problem(where, field_name, shown(name), expected, fix)) from error
    return task_class


def _for_model(recipe: Recipe, task_class: type[Task], source: str | None, log: ProblemLog) -> type[Task]:
    """The class that does the task with the student's kind of model, which is said where it might have been another."""
    if not task_class.may_generate or source is None:
        return task_class
    try:
        config = initialization.bare_config(recipe) if source == NEW else configuration.read_config(source, "", "model")
    except UserError:  # which is said where the student is read
        return task_class
    chosen: type[Task] = task_class.for_model(config)
    kind = ", ".join(getattr(config, "architectures", None) or [f"a model of type {config.model_type}"])
    if chosen.generates:
        log.notices.append(f"{recipe.task} with {kind}: answers are written, not cut from the text")
    else:
        generated = ["objective.anchor_on"] if recipe.anchors_generated else []
        for field in (*writing_fields(recipe), *generated):
            expected = f"nothing that is for writing: with {kind} {recipe.task} cuts an answer from the text"
            log.errors.append(recipe.problem(field, expected=expected, fix="leave it out, or take a decoder"))
    return chosen


def _locate_student(recipe: Recipe) -> str:
    if isinstance(recipe.model, NewModel):
        return NEW
    name = recipe.model.teacher if isinstance(recipe.model, StudentFrom) else recipe.model
    return model_files.locate(name, recipe.path, recipe.where("model"), "model")


def _read_student(
    recipe: Recipe, task_class: type[Task], source: str | None, train: Sequence[Row], log: ProblemLog
) -> StudentFiles:
    """`train`: the rows on which a new model's tokenizer is trained."""
    spec, where = recipe.model, recipe.where("model")
    config = processor = auto_model = None
    untrained: Sequence[str] = ()
    if isinstance(spec, NewModel):
        config, processor = log.collect(lambda: initialization.files(spec, recipe, task_class, train)) or (None, None)
    elif source is not None:
        config = log.collect(lambda: configuration.read_config(source, where, "model"))
        processor = log.collect(lambda: processors.read_processor(source, where, "model", task_class.reads))
    if config is not None:
        auto_model = log.collect(lambda: loading.pick(task_class.auto_models, config, where, "model"))
    if source is not None and processor is not None and auto_model is not None:
        folder, head = source, auto_model
        log.collect(lambda: loading.fit_head(folder, config, processor, head))
    if isinstance(spec, NewModel) and auto_model is not None:
        class_name = auto_model
        log.collect(lambda: initialization.check(config, class_name, recipe.where("model.new")))
    elif source is not None and auto_model is not None:
        found, head_class = source, auto_model
        untrained = log.collect(lambda: loading.check_weights(found, config, head_class, where, "model")) or ()
    return StudentFiles(config, processor, auto_model, untrained)
