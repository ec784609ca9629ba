"""Everything that a recipe names is read and checked here, before any weight is loaded.

`gather` reads configurations, tokenizers and data, encodes every row and reports every problem at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keeltune import audit, data, models, registry, surgery
from keeltune.data import Column, Row
from keeltune.problems import Problem, UserError, nearest, shown
from keeltune.recipe import NewModel, Recipe, StudentFrom
from keeltune.tasks.task import Example, Settings, Task

PROBES = 200
"""Texts on which two tokenizers must agree before they count as the same."""


@dataclass(frozen=True)
class ReferenceFiles:
    """One model of the reference, not loaded yet: where it lies, its label names in its order, how it reads a row."""

    source: str
    names: list[str]
    companion: str | None


@dataclass
class Material:
    """Everything a run reads, checked and encoded; no weights."""

    recipe: Recipe
    task: Task
    source: str
    config: Any
    new_head: bool
    from_model: bool
    rows: dict[str, list[Row]]
    examples: dict[str, list[Example]]
    references: list[ReferenceFiles]
    notices: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Examples of one forward pass: as the recipe says, or as many as have `tokens_per_batch` tokens on average."""
        training = self.recipe.training
        if training.batch_size is not None:
            return training.batch_size
        assert training.tokens_per_batch is not None
        lengths = [example.length for example in self.main_stream]
        return max(1, int(training.tokens_per_batch * len(lengths) / sum(lengths)))

    @property
    def main_stream(self) -> list[Example]:
        """The rows that define the epoch: the labelled ones, or the unlabelled ones where there are none."""
        return self.examples["train"] or self.examples["unlabeled"]

    @property
    def cuts(self) -> int:
        """Micro-batches of a step over all ranks."""
        return self.recipe.training.gradient_accumulation_steps * world_size()

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        training = self.recipe.training
        per_epoch = max(1, len(self.main_stream) // (self.batch_size * self.cuts))
        return training.max_steps or (training.epochs or 1) * per_epoch


def world_size() -> int:
    """Processes that train together, as the launcher (torchrun) says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def task_columns(task_class: type[Task], recipe: Recipe) -> list[Column]:
    """The task's columns; with `multi_label` the label column holds lists."""
    return [replace(c, kind="labels") if c.label and recipe.data.multi_label else c for c in task_class.columns]


def gather(recipe: Recipe, progress: Callable[[str], None] = lambda what: None) -> Material:
    """Reads and checks all that a recipe names. Raises UserError with every problem found."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    task_class = find_task(recipe.task, recipe.where("task"))
    columns = task_columns(task_class, recipe)

    progress("reading models")
    source = _collect(problems, lambda: _source(recipe))
    teachers = _collect(problems, lambda: _reference_sources(recipe)) or []

    progress("reading data")
    rows, skipped = _rows(recipe, columns, problems)
    config = processor = None
    if source is not None:
        config = _collect(problems, lambda: models.read_config(source, recipe.where("model"), "model"))
        processor = _collect(problems, lambda: models.read_processor(source, recipe.where("model"), "model"))
    head = models.head_names(config) if config is not None else None
    if (
        not rows["train"] and teachers and config is not None
    ):  # nothing but unlabelled rows: the teacher names the labels
        head = models.head_names(models.read_config(teachers[0], recipe.where("reference"), "reference")) or head
    names, label_problems, notices = _names(recipe, rows, head)
    problems += [p for p in label_problems if p.severity == "error"]
    warnings += [p for p in label_problems if p.severity == "warning"]
    if isinstance(recipe.data.validation, float) and rows["train"]:  # named first: a small split may lack a label
        rows["train"], rows["validation"] = data.split_share(rows["train"], recipe.data.validation, recipe.seed)
    splits = {name: split for name, split in rows.items() if split}
    if names:
        found, bad = audit.audit(splits, names, columns, recipe.data.multi_label)
        if recipe.data.bad_rows == "skip" and bad:
            skipped += [p for p in found if p.severity == "error" and audit.is_row_problem(p)]
            found = [p for p in found if not (p.severity == "error" and audit.is_row_problem(p))]
            rows = {k: [r for r in v if (r.file, r.line) not in bad] for k, v in rows.items()}
        problems += [p for p in found if p.severity == "error"]
        warnings += [p for p in found if p.severity == "warning"]
    problems += _emptied(recipe, rows, skipped)
    class_weights = _class_weights(recipe, rows["train"], names, problems)
    if problems or source is None or config is None or processor is None:
        raise UserError(problems)

    progress("encoding rows")
    max_length = reading_length(recipe.max_length, config, processor, task_class, recipe.where("max_length"))
    settings = Settings(names, max_length, recipe.data.multi_label, class_weights)
    if isinstance(recipe.model, StudentFrom):
        place = recipe.where("model.layers")
        surgery.student_config(config, task_class.auto_model, recipe.model.layers, place, "model.layers")
    if lora := recipe.training.lora:
        place = recipe.where("training.lora.target_modules")
        if problem := surgery.adapter_problem(config, task_class.auto_model, lora.target_modules, place):
            raise UserError(problem)
    own = _from_model(recipe, teachers, source)
    if own:
        _own_head(recipe, source, config, head, names, task_class)
    references, companions = _references(recipe, [] if own else teachers, processor, settings, task_class, rows)
    task = task_class(processor, settings, companions)
    examples = {
        name: [example for row in split for example in _encode(task, row, labelled=name != "unlabeled")]
        for name, split in rows.items()
    }
    for name, split in examples.items():
        if cut := sum(example.truncated for example in split):
            warnings.append(_truncation(name, cut, len(split), max_length, recipe))
    trained_head = names == known_names(head, names)
    material = Material(
        recipe,
        task,
        source,
        config,
        not trained_head,
        own,
        rows,
        examples,
        references,
        notices,
        warnings,
        skipped,
    )
    _enough_rows(material)
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
    assert not isinstance(recipe.model, NewModel)  # refused by the recipe: not built yet
    name = recipe.model.teacher if isinstance(recipe.model, StudentFrom) else recipe.model
    return models.locate(name, recipe.path, recipe.where("model"), "model")


def _reference_sources(recipe: Recipe) -> list[str]:
    spec = recipe.reference_spec()
    if spec is None or spec.model is None:
        return []
    names = [spec.model] if isinstance(spec.model, str) else spec.model
    return [models.locate(name, recipe.path, recipe.where("reference"), "reference") for name in names]


def _from_model(recipe: Recipe, teachers: Sequence[str], source: str) -> bool:
    """Whether the reference is the student itself as it was before training: none is named, or the same model is."""
    spec = recipe.reference_spec()
    return spec is not None and (not teachers or (isinstance(recipe.model, str) and list(teachers) == [source]))


def _rows(
    recipe: Recipe, columns: Sequence[Column], problems: list[Problem]
) -> tuple[dict[str, list[Row]], list[Problem]]:
    """Every split's rows; the problems that stop the run go to `problems`, those of skipped rows are returned."""
    spec = recipe.data
    skipped: list[Problem] = []

    def read(value: str | None, where: str, split: str, labelled: bool = True) -> list[Row]:
        if value is None:
            return []
        found, faults = data.read(
            value,
            resolve=recipe.path,
            columns=columns,
            mapping=spec.columns,
            labelled=labelled,
            where=recipe.where(where),
            split=split,
        )
        for fault in faults:
            if fault.severity == "error":
                skip = spec.bad_rows == "skip" and audit.is_row_problem(fault)
                (skipped if skip else problems).append(fault)
        if isinstance(spec.labels, dict) and labelled:
            found, unknown = audit.apply_label_map(found, spec.labels)
            (skipped if spec.bad_rows == "skip" else problems).extend(unknown)
        return found

    rows = {
        "train": read(spec.train, "data.train", "train"),
        "validation": read(spec.validation, "data.validation", "validation")
        if isinstance(spec.validation, str)
        else [],
        "test": read(spec.test, "data.test", "test"),
        "unlabeled": read(spec.unlabeled, "data.unlabeled", "train", labelled=False),
        "source": read(spec.source.test, "data.source.test", "test"),
    }
    return rows, skipped


def _emptied(recipe: Recipe, rows: dict[str, list[Row]], skipped: Sequence[Problem]) -> list[Problem]:
    """Splits of which `bad_rows: skip` left nothing."""
    spec = recipe.data
    sources = {"train": spec.train, "validation": spec.validation, "test": spec.test, "unlabeled": spec.unlabeled}
    return [
        Problem(recipe.where(f"data.{name}"), f"data.{name}", f"{shown(source)}, every row of which is skipped", "rows",
                "mend the rows; what is wrong with them: bad_rows: refuse")
        for name, source in sources.items()
        if skipped and isinstance(source, str) and not rows[name]
    ]  # fmt: skip


def _names(
    recipe: Recipe, rows: dict[str, list[Row]], head: list[str] | None
) -> tuple[list[str], list[Problem], list[str]]:
    """The label names of the run; without labelled training rows the teacher's, in the sense that the others show."""
    labelled = rows["train"] or [*rows["validation"], *rows["test"], *rows["source"]]
    if not labelled:
        return head or [], [], []
    return audit.label_names(labelled, given=recipe.data.labels, head=head, multi_label=recipe.data.multi_label)


def known_names(head: list[str] | None, names: list[str]) -> list[str] | None:
    """A head's names; `LABEL_n` is no name, but where the data's labels are whole numbers it stands for n."""
    if head and all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        return [name.removeprefix("LABEL_") for name in head] if all(n.isdigit() for n in names) else None
    return head


def _class_weights(
    recipe: Recipe, train: Sequence[Row], names: Sequence[str], problems: list[Problem]
) -> dict[str, float] | None:
    """Each label's weight: the recipe's, or for `balanced` rows / (labels × rows of the label), as in scikit-learn."""
    given = recipe.data.class_weights
    if given is None or not names:
        return None
    if given == "balanced":
        labels = [
            x for row in train for x in (row.fields["label"] if recipe.data.multi_label else [row.fields["label"]])
        ]
        return {name: len(labels) / (len(names) * max(labels.count(name), 1)) for name in names}
    weights = {str(name): weight for name, weight in given.items()}
    for name in set(weights) - set(names):
        problems.append(
            Problem(
                recipe.where("data.class_weights"),
                f"data.class_weights.{name}",
                shown(name),
                f"one of the labels {', '.join(names[:20])}",
                f"correct the name{nearest(name, names)}",
            )
        )
    return weights


def reading_length(asked: int | None, config: Any, processor: Any, task_class: type[Task], where: str) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is asked for, which must not be larger."""
    shape = models.skeleton(config, task_class.auto_model, where, "model")
    bounds = [models.positions(shape), processor.model_max_length]
    bound = min((int(b) for b in bounds if b is not None and b < 1_000_000), default=None)
    if asked is not None and bound is not None and asked > bound:
        raise UserError(
            Problem(
                where,
                "max_length",
                shown(asked),
                f"at most {bound}, which is what the model and its tokenizer can read",
                f"max_length: {bound}, or a model that reads longer texts",
            )
        )
    return bound if asked is None else asked


def _encode(task: Task, row: Row, *, labelled: bool) -> list[Example]:
    """A row's examples, with the encodings that other readers of the same row need."""
    examples = task.encode(row, labelled=labelled)
    if not task.companions:
        return examples
    others = {name: companion.encode(row, labelled=False) for name, companion in task.companions.items()}
    return [
        replace(example, others={name: encoded[i].inputs for name, encoded in others.items()})
        for i, example in enumerate(examples)
    ]


def _references(
    recipe: Recipe,
    sources: Sequence[str],
    processor: Any,
    settings: Settings,
    task_class: type[Task],
    rows: dict[str, list[Row]],
) -> tuple[list[ReferenceFiles], dict[str, Task]]:
    """The reference's models, checked by label name; those that read text otherwise get an encoding of their own."""
    probes = [*rows["train"], *rows["unlabeled"]][:PROBES]
    files, companions = [], {}
    problems: list[Problem] = []
    where = recipe.where("reference")
    for number, source in enumerate(sources):
        config = models.read_config(source, where, "reference")
        theirs = models.read_processor(source, where, "reference")
        names = known_names(models.head_names(config), list(settings.labels)) or models.head_names(config) or []
        if missing := models.untrained_head(source, config, task_class.auto_model):
            problems.append(no_trained_head(source, missing, where))
            continue
        if set(names) != set(settings.labels):
            problems.append(_other_labels(where, source, names, settings.labels))
            continue
        kinds = {True: "multi_label_classification", False: "single_label_classification"}
        if getattr(config, "problem_type", None) == kinds[not settings.multi_label]:
            problems.append(
                Problem(
                    where,
                    "reference",
                    f"{shown(source)} was trained as {config.problem_type}",
                    f"{kinds[settings.multi_label]}, as this recipe trains",
                    "take a reference trained with the same multi_label",
                )
            )
            continue
        reach = reading_length(None, config, theirs, task_class, where)
        short = reach is not None and (settings.max_length is None or reach < settings.max_length)
        bounds = [b for b in (reach, settings.max_length) if b is not None]
        reader = task_class(theirs, replace(settings, max_length=min(bounds, default=None)))
        companion = None
        if short or not _same_encoding(task_class(processor, settings), reader, probes):
            companion = f"reference_{number}"
            companions[companion] = reader
        files.append(ReferenceFiles(source, names, companion))
    if problems:
        raise UserError(problems)
    return files, companions


def _same_encoding(ours: Task, theirs: Task, probes: Sequence[Row]) -> bool:
    """Whether two models read rows alike: the same token for every id, and the same inputs for the probes.

    Equal sizes prove nothing: two vocabularies of 50 257 tokens may share hardly one id. Nor do equal ids: one model
    may want the segments of a pair, where the other has none.
    """
    a, b = ours.processor, theirs.processor
    if a.get_vocab() != b.get_vocab() or (a.pad_token_id, a.padding_side) != (b.pad_token_id, b.padding_side):
        return False
    return all(
        [e.inputs for e in ours.encode(row, labelled=False)] == [e.inputs for e in theirs.encode(row, labelled=False)]
        for row in probes
    )


def _own_head(
    recipe: Recipe, source: str, config: Any, head: list[str] | None, names: list[str], task_class: type[Task]
) -> None:
    """The model as it was before training can be the reference only if its head knows these labels."""
    where = recipe.where("method")
    if missing := models.untrained_head(source, config, task_class.auto_model):
        raise UserError(no_trained_head(source, missing, where))
    if known_names(head, names) != names:
        raise UserError(_other_labels(where, source, head or [], names))


def no_trained_head(source: str, missing: Sequence[str], where: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} has no trained head for these labels: {', '.join(missing)} would be random",
        "a reference whose task head was trained; staying near a random head teaches noise",
        "fine-tune that model on the source domain first (method: fine-tuning), then name its run here",
    )


def _other_labels(where: str, source: str, names: Sequence[str], labels: Sequence[str]) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)} with the labels {', '.join(names[:20]) or 'none'}",
        f"the labels {', '.join(labels[:20])} (in any order)",
        "take a reference trained on these labels, or map the data's names to its names with data.labels",
    )


def _enough_rows(material: Material) -> None:
    rows, cuts = len(material.main_stream), material.cuts
    if rows < cuts:
        raise UserError(
            Problem(
                material.recipe.where("training.gradient_accumulation_steps"),
                "training.gradient_accumulation_steps",
                f"{rows} training rows for {cuts} micro-batches a step",
                "at least one row for each micro-batch",
                "lower gradient_accumulation_steps or the number of processes, or add rows",
            )
        )


def _truncation(split: str, cut: int, total: int, max_length: int | None, recipe: Recipe) -> Problem:
    return Problem(
        recipe.where(f"data.{split}" if split != "source" else "data.source.test"),
        split,
        f"{cut} of {total} rows ({cut / total:.1%}) are longer than {max_length} tokens and are cut",
        "rows that fit",
        "raise max_length if the model allows it, or shorten the texts; what is cut is not read",
        severity="warning",
    )
