"""Everything that a recipe names is read and checked here, before any weight is loaded.

`gather` reads configurations, tokenizers and data, encodes every row and reports every problem at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keeltune.data import audit, augmentation, clusters, dataset
from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.data.dataset import Row
from keeltune.data.labels import class_weights_of, decide_labels, labels_of
from keeltune.data.row_problems import is_row_problem
from keeltune.data.term_lists import read_terms
from keeltune.models import initialization, loading, model_files, processors, surgery
from keeltune.models.lora import adapter_problem
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel, StudentFrom
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.families.masked_lm import MaskedLm
from keeltune.tasks.task import Task
from keeltune.training.matching_terms import matching_problems
from keeltune.training.preparation.compatibility import NEW, check_student_head, compatible_references
from keeltune.training.preparation.encoding import encode_row, encode_splits, truncation_warning
from keeltune.training.preparation.lengths import reading_length, writing_length
from keeltune.training.preparation.material import SCORED, Material
from keeltune.training.preparation.splits import emptied_splits, read_splits, require_enough_rows, task_columns
from keeltune.training.regularization import regularizer_problems
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, shown


def prepare(recipe: Recipe, progress: Callable[[str], None] = lambda what: None) -> Material:
    """Reads and checks all that a recipe names. Raises UserError with every problem found."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    task_class = find_task(recipe.task, recipe.where("task"))
    columns = task_columns(task_class, recipe.data.multi_label)

    if recipe.data.augment and (reason := refusal(task_class)):
        place, expected = recipe.where("data.augment"), f"no variants of texts for {recipe.task}: {reason}"
        problems.append(Problem(place, "data.augment", shown("augment"), expected, "leave it out"))

    progress("reading models")
    source = _collect(problems, lambda: _source(recipe))
    teachers = _collect(problems, lambda: _reference_sources(recipe)) or []

    progress("reading data")
    rows, skipped = read_splits(recipe, task_class, columns, problems)
    config = processor = auto_model = None
    place = recipe.where("model")
    if isinstance(recipe.model, NewModel):
        made = _collect(problems, lambda: initialization.files(recipe.model, recipe, task_class, rows["train"]))  # type: ignore[arg-type]
        config, processor = made or (None, None)
    elif source is not None:
        config = _collect(problems, lambda: loading.read_config(source, place, "model"))
        processor = _collect(problems, lambda: processors.read_processor(source, place, "model", task_class.reads))
    if config is not None:
        auto_model = _collect(problems, lambda: loading.pick(task_class.auto_models, config, place, "model"))
    if isinstance(recipe.model, NewModel) and auto_model is not None:
        _collect(problems, lambda: initialization.check(config, auto_model, recipe.where("model.new")))
    has_labels = task_class.choices == "labels"
    choice = decide_labels(
        recipe,
        task_class,
        rows,
        model_head=loading.head_names(config) if config is not None else None,
        teacher_head=lambda: _head_names(recipe, teachers) if config is not None else None,
    )
    names, head, notices = choice.names, choice.head, list(choice.notices)
    problems += [p for p in choice.problems if p.severity == "error"]
    warnings += [p for p in choice.problems if p.severity == "warning"]
    if isinstance(recipe.data.validation, float) and rows["train"]:  # named first: a small split may lack a label
        rows["train"], rows["validation"] = dataset.split_share(rows["train"], recipe.data.validation, recipe.seed)
    rows["train"] = dataset.nested_share(rows["train"], recipe.data.share) if recipe.data.share < 1 else rows["train"]
    second = recipe.objective.anchor_head
    for labels, these in choice.split_groups(second, rows):
        splits = {name: rows[name] for name in these if rows[name]}
        if not splits or (has_labels and not labels):
            continue
        found, bad = audit.audit(splits, labels, columns, recipe.data.multi_label, labels_of(task_class))
        if recipe.data.bad_rows == "skip" and bad:
            skipped += [p for p in found if p.severity == "error" and is_row_problem(p)]
            found = [p for p in found if not (p.severity == "error" and is_row_problem(p))]
            rows |= {k: [r for r in v if (r.file, r.line) not in bad] for k, v in splits.items()}
        problems += [p for p in found if p.severity == "error"]
        warnings += [p for p in found if p.severity == "warning"]
    problems += emptied_splits(recipe, rows, skipped)
    scored = {split: rows[split] for split in SCORED}
    problems += missing_columns(recipe, scored)
    warnings += cluster_warnings(recipe, scored)
    own = source is not None and _from_model(recipe, teachers, source)
    if own and second == "task" and config is not None and auto_model is not None and (names or not has_labels):
        _collect(problems, lambda: check_student_head(recipe, str(source), config, head, names, str(auto_model)))
    class_weights = class_weights_of(recipe, task_class, rows["train"], names, problems)
    if problems or source is None or config is None or processor is None or auto_model is None:
        raise UserError(problems)

    progress("encoding rows")
    max_length = reading_length(
        recipe.max_length, config, processor, task_class, auto_model, recipe.where("max_length")
    )
    settings = Settings(
        names,
        max_length,
        recipe.data.multi_label,
        class_weights,
        config,
        auto_model,
        writing_length(recipe.target_max_length, config, max_length),
        recipe.prompt,
        (recipe.languages.source, recipe.languages.target) if recipe.languages else None,
        recipe.generation.beams,
        recipe.generation.max_new_tokens,
        tuple(recipe.evaluation.metrics),
        recipe.evaluation.metric,
    )
    if isinstance(recipe.model, StudentFrom):
        place = recipe.where("model.layers")
        surgery.student_config(config, auto_model, recipe.model.layers, place, "model.layers")
    if lora := recipe.training.lora:
        place = recipe.where("training.lora.target_modules")
        if problem := adapter_problem(config, auto_model, lora.target_modules, place):
            raise UserError(problem)
    processors.prepare_tokenizer(config, processor)  # rows are encoded with the padding token that training will have
    files, companions = compatible_references(recipe, [] if own else teachers, processor, settings, task_class, rows)
    notices += [each.notice for each in files if each.notice]
    task = task_class(processor, settings, companions)
    problems += [*task_problems(task, recipe), *regularizer_problems(recipe, task), *matching_problems(recipe)]
    old = _old_head(recipe, task_class, processor, settings, head, source) if second != "task" else None
    encoded, faulty = encode_splits(task, rows, old)
    (skipped if recipe.data.bad_rows == "skip" else problems).extend(faulty)
    problems += emptied_splits(recipe, rows, faulty) if recipe.data.bad_rows == "skip" else []
    for name, split in encoded.items():
        if cut := sum(any(example.truncated for example in row) for row in split):
            warnings.append(truncation_warning(name, cut, len(split), max_length, recipe))
    if needs_text(recipe, task, encoded["unlabeled"]) and not files:
        said = "rows without a target, in which this task predicts nothing"
        wanted = "what this version has: without a teacher no one writes the targets"
        problems.append(Problem(recipe.where("data.unlabeled"), "data.unlabeled", said, wanted, "leave it out"))
    if recipe.generation.on_policy and not task.samples:
        place, wanted = recipe.where("generation"), "a model that writes token by token"
        said = f"{auto_model}, which chooses for all frames at once"
        problems.append(Problem(place, "generation.on_policy", said, wanted, "leave it out"))
    if problems:
        raise UserError(problems)
    if spec := recipe.data.augment:
        originals = {row.key: row for row in [*rows["train"], *rows["unlabeled"]]}.values()
        rows["augmented"] = [v for row in originals for v in augmentation.variants(row, task_class, spec, recipe.seed)]
        encoded["augmented"] = [encode_row(task, row, "augmented") for row in rows["augmented"]]
    notices += task.notices([example for row in encoded["train"] for example in row])
    material = Material(
        recipe,
        task,
        source,
        config,
        auto_model,
        processor,
        choice.new_head,
        own,
        rows,
        encoded,
        files,
        old,
        notices,
        warnings,
        skipped,
    )
    require_enough_rows(material)
    return material


def find_task(name: str, where: str, field_name: str = "task") -> type[Task]:
    """The task `name` stands for; UserError where there is none, or where its module cannot be imported."""
    try:
        found: type[Task] = registry.find("tasks", name)
    except (LookupError, ImportError, AttributeError) as error:
        known = ", ".join(registry.names("tasks"))
        raise UserError(
            Problem(where, field_name, shown(name), f"a task ({known}) or my_package.my_module:MyTask", str(error))
        ) from error
    return found


def _collect(problems: list[Problem], step: Callable[[], Any]) -> Any:
    """What `step` returns; its problems, instead of its exception, where it fails."""
    try:
        return step()
    except UserError as error:
        problems += error.problems
        return None


def _source(recipe: Recipe) -> str:
    if isinstance(recipe.model, NewModel):
        return NEW
    name = recipe.model.teacher if isinstance(recipe.model, StudentFrom) else recipe.model
    return model_files.locate(name, recipe.path, recipe.where("model"), "model")


def _reference_sources(recipe: Recipe) -> list[str]:
    spec = recipe.reference_spec()
    if spec is None or spec.model is None or spec.origin == "served":
        return []
    names = [spec.model] if isinstance(spec.model, str) else spec.model
    return [model_files.locate(name, recipe.path, recipe.where("reference"), "reference") for name in names]


def _head_names(recipe: Recipe, teachers: Sequence[str]) -> list[str] | None:
    """The label names of the first teacher's head."""
    if not teachers:
        return None
    return loading.head_names(loading.read_config(teachers[0], recipe.where("reference"), "reference"))


def _from_model(recipe: Recipe, teachers: Sequence[str], source: str) -> bool:
    """Whether the reference is the student itself as it was before training: none is named, or the same model is."""
    spec = recipe.reference_spec()
    if spec is None or spec.origin == "served":
        return False
    return not teachers or (isinstance(recipe.model, str) and list(teachers) == [source])


def needs_text(recipe: Recipe, task: Task, encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether a teacher must write a text for rows without labels: as their label, or to predict anything."""
    return task.generates and bool(encoded) and (without_targets(encoded) or recipe.data.unlabeled_as == "labels")


def without_targets(encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether nothing is predicted in these rows, as they have no text and their predictions are its tokens."""
    return not any(example.predictions for row in encoded for example in row)


def task_problems(task: Task, recipe: Recipe) -> list[Problem]:
    """What the task, now that its model is known, cannot do with the recipe."""
    faults = [*task.scoring.faults(), *task.recipe_faults()]
    return [Problem(recipe.where(f.field), f.field, f.found, f.expected, f.fix, f.kind) for f in faults]


def _old_head(
    recipe: Recipe, task_class: type[Task], processor: Any, settings: Settings, head: list[str] | None, source: str
) -> Task:
    """The task as the second head has it: with the old labels, or with masked tokens."""
    place = recipe.where("objective")
    if recipe.objective.anchor_head == "source":
        if not head:
            found, expected = "a model whose head has no names", "one that was trained for the old labels"
            fix = "fine-tune it on the source domain first, or write anchor_head: masked-lm"
            raise UserError(Problem(place, "objective.anchor_head", found, expected, fix))
        return task_class(processor, replace(settings, labels=head, class_weights=None))
    masked = MaskedLm(processor, replace(settings, labels=[]))
    if missing := loading.untrained_head(source, settings.config, masked.auto_models[0]):
        found, expected = f"{shown(source)} without {', '.join(missing[:3])}", "a pretrained head of masked tokens"
        raise UserError(Problem(place, "objective.anchor_head", found, expected, "write anchor_head: source"))
    if masked.tokenizer.mask_token_id is None:
        found, expected = "a tokenizer without a mask token", "an encoder that was trained on masked tokens"
        raise UserError(Problem(place, "objective.anchor_head", found, expected, "write anchor_head: source"))
    masked.seed = recipe.seed
    return masked


REASONS = {
    "positions": "the answer is a part of the text, and could be the part that is left out",
    "tokens": "what is written must follow the whole text",
    "labels": "each word has a label of its own",
}
"""Why a task's rows have no variants, by what its predictions choose among."""


def refusal(task: type[Task]) -> str | None:
    """Why a task's rows cannot be varied; None where they can."""
    if task.whole_texts:
        return None
    return REASONS[task.choices] if task.reads == "text" else f"what is read is {task.reads}, not text"


def missing_columns(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Columns of clusters and slices that no row of the scored splits has, and a file of terms that is none."""
    spec, problems = recipe.evaluation, list[Problem]()
    if spec.terms is not None:
        try:
            read_terms(recipe.path(spec.terms), recipe.where("evaluation.terms"), "evaluation.terms")
        except UserError as error:
            problems += error.problems
    rows = [row for split in scored.values() for row in split]
    asked = {"clusters": [spec.clusters] if spec.clusters else [], "slices": spec.slices or []}
    for name_of, names in asked.items():
        if rows and any(not any(name in row.fields for row in rows) for name in names):
            there = ", ".join(sorted(rows[0].fields))
            expected = f"a column of the rows that are scored, which have {there}"
            problems.append(
                recipe.problem(f"evaluation.{name_of}", expected=expected, fix="name one of them, or leave it out")
            )
    return problems


def cluster_warnings(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Warnings of splits with so few clusters that drawing them again shows next to nothing; with one, nothing."""
    column, problems = recipe.evaluation.clusters, list[Problem]()
    for split, rows in scored.items() if column else ():
        own = clusters.numbers_of(rows, column)
        if own is not None and own.max() + 1 < FEW_CLUSTERS:
            found = f"{own.max() + 1} clusters in the rows of {split}"
            expected = f"{FEW_CLUSTERS} or more: over fewer, intervals and bounds are too narrow; over one, a point"
            place, fix = recipe.where("evaluation.clusters"), "score more of them, or leave clusters out"
            problems.append(Problem(place, "evaluation.clusters", found, expected, fix, severity="warning"))
    return problems
