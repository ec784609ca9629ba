"""Everything that a recipe names is read and checked here, before any weight is loaded.

`gather` reads configurations, tokenizers and data, encodes every row and reports every problem at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from keeltune import audit, augment, data, models, newborn, registry, surgery
from keeltune.data import Column, Row
from keeltune.families.masked import Masked
from keeltune.fitting import (
    NEW,
    ReferenceFiles,
    few_clusters,
    known_names,
    no_columns,
    own_head,
    reading_length,
    references,
    writing_length,
)
from keeltune.fitting import regularizer_problems as unfit_regularizers
from keeltune.formats import RowProblem
from keeltune.label_space import class_weights_of, label_names, labels_of
from keeltune.problems import Problem, UserError, shown
from keeltune.recipe import NewModel, Recipe, Source, StudentFrom
from keeltune.tasks.task import Example, Fault, Settings, Task
from keeltune.words import Said

SCORED = ("validation", "test", "source", "source_validation")
"""The splits that are scored before and after training; of the source domain its test rows and its control slice."""

OLD = ("source", "source_validation")
"""The splits that are scored on the source domain."""

LEARNT = ("train", "source_train")
"""The splits whose labels are learnt."""


@dataclass
class Material:
    """Everything a run reads, checked and encoded; no weights."""

    recipe: Recipe
    task: Task
    source: str
    config: Any
    auto_model: str
    processor: Any
    new_head: bool
    from_model: bool
    rows: dict[str, list[Row]]
    encoded: dict[str, list[list[Example]]]
    references: list[ReferenceFiles]
    old: Task | None = None
    notices: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)

    @property
    def examples(self) -> dict[str, list[Example]]:
        """Each split's examples, row by row."""
        return {name: [example for row in split for example in row] for name, split in self.encoded.items()}

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
    def beside(self) -> dict[str, float]:
        """The splits whose rows join the labelled ones, with their rows per labelled row."""
        mix = self.recipe.data.mix
        shares = {
            "unlabeled": mix.unlabeled,
            "augmented": mix.augmented,
            "source_unlabeled": mix.source_unlabeled,
            "source_train": mix.source,
        }
        alone = () if self.rows["train"] else ("unlabeled",)  # which then define the epoch
        found = {split: share for split, share in shares.items() if self.rows.get(split) and split not in alone}
        return found | ({"generated": mix.source_unlabeled} if self.encoded.get("generated") else {})

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


def task_columns(task_class: type[Task], multi_label: bool) -> list[Column]:
    """The task's columns; with `multi_label` the label column holds lists."""
    return [replace(c, kind="labels") if c.label and multi_label else c for c in task_class.columns]


def gather(recipe: Recipe, progress: Callable[[str], None] = lambda what: None) -> Material:
    """Reads and checks all that a recipe names. Raises UserError with every problem found."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    task_class = find_task(recipe.task, recipe.where("task"))
    columns = task_columns(task_class, recipe.data.multi_label)

    if recipe.data.augment and (reason := augment.refusal(task_class)):
        place, expected = recipe.where("data.augment"), f"no variants of texts for {recipe.task}: {reason}"
        problems.append(Problem(place, "data.augment", shown("augment"), expected, "leave it out"))

    progress("reading models")
    source = _collect(problems, lambda: _source(recipe))
    teachers = _collect(problems, lambda: _reference_sources(recipe)) or []

    progress("reading data")
    rows, skipped = _rows(recipe, task_class, columns, problems)
    config = processor = auto_model = None
    place = recipe.where("model")
    if isinstance(recipe.model, NewModel):
        made = _collect(problems, lambda: newborn.files(recipe.model, recipe, task_class, rows["train"]))  # type: ignore[arg-type]
        config, processor = made or (None, None)
    elif source is not None:
        config = _collect(problems, lambda: models.read_config(source, place, "model"))
        processor = _collect(problems, lambda: models.read_processor(source, place, "model", task_class.reads))
    if config is not None:
        auto_model = _collect(problems, lambda: models.pick(task_class.auto_models, config, place, "model"))
    if isinstance(recipe.model, NewModel) and auto_model is not None:
        _collect(problems, lambda: newborn.check(config, auto_model, recipe.where("model.new")))
    has_labels = task_class.choices == "labels"
    head = models.head_names(config) if config is not None and has_labels else None
    if (
        has_labels and not rows["train"] and teachers and config is not None
    ):  # nothing but unlabelled rows: the teacher names the labels
        head = models.head_names(models.read_config(teachers[0], recipe.where("reference"), "reference")) or head
    names, label_problems, notices = label_names(recipe, task_class, rows, head) if has_labels else ([], [], [])
    problems += [p for p in label_problems if p.severity == "error"]
    warnings += [p for p in label_problems if p.severity == "warning"]
    if isinstance(recipe.data.validation, float) and rows["train"]:  # named first: a small split may lack a label
        rows["train"], rows["validation"] = data.split_share(rows["train"], recipe.data.validation, recipe.seed)
    rows["train"] = data.nested_share(rows["train"], recipe.data.share) if recipe.data.share < 1 else rows["train"]
    second = recipe.objective.anchor_head
    of_old = [name for name in OLD if second != "task"]  # with the old labels
    for labels, these in ((head, of_old if second == "source" else []), (names, [n for n in rows if n not in of_old])):
        splits = {name: rows[name] for name in these if rows[name]}
        if not splits or (has_labels and not labels):
            continue
        found, bad = audit.audit(splits, labels or [], columns, recipe.data.multi_label, labels_of(task_class))
        if recipe.data.bad_rows == "skip" and bad:
            skipped += [p for p in found if p.severity == "error" and audit.is_row_problem(p)]
            found = [p for p in found if not (p.severity == "error" and audit.is_row_problem(p))]
            rows |= {k: [r for r in v if (r.file, r.line) not in bad] for k, v in splits.items()}
        problems += [p for p in found if p.severity == "error"]
        warnings += [p for p in found if p.severity == "warning"]
    problems += _emptied(recipe, rows, skipped)
    scored = {split: rows[split] for split in SCORED}
    problems += no_columns(recipe, scored)
    warnings += few_clusters(recipe, scored)
    own = source is not None and _from_model(recipe, teachers, source)
    if own and second == "task" and config is not None and auto_model is not None and (names or not has_labels):
        _collect(problems, lambda: own_head(recipe, str(source), config, head, names, str(auto_model)))
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
    )
    if isinstance(recipe.model, StudentFrom):
        place = recipe.where("model.layers")
        surgery.student_config(config, auto_model, recipe.model.layers, place, "model.layers")
    if lora := recipe.training.lora:
        place = recipe.where("training.lora.target_modules")
        if problem := surgery.adapter_problem(config, auto_model, lora.target_modules, place):
            raise UserError(problem)
    models.prepare_tokenizer(config, processor)  # rows are encoded with the padding token that training will have
    files, companions = references(recipe, [] if own else teachers, processor, settings, task_class, rows)
    notices += [each.notice for each in files if each.notice]
    task = task_class(processor, settings, companions)
    problems += [*task_problems(task, recipe), *unfit_regularizers(recipe, task)]
    old = _old_head(recipe, task_class, processor, settings, head, source) if second != "task" else None
    encoded, faulty = _encoded(task, rows, old)
    (skipped if recipe.data.bad_rows == "skip" else problems).extend(faulty)
    problems += _emptied(recipe, rows, faulty) if recipe.data.bad_rows == "skip" else []
    for name, split in encoded.items():
        if cut := sum(any(example.truncated for example in row) for row in split):
            warnings.append(_truncation(name, cut, len(split), max_length, recipe))
    if needs_text(recipe, task, encoded["unlabeled"]) and not files:
        said = "rows without a target, in which this task predicts nothing"
        wanted = "what this version has: without a teacher no one writes the targets"
        problems.append(Problem(recipe.where("data.unlabeled"), "data.unlabeled", said, wanted, "leave it out"))
    if recipe.generation.on_policy and not task.draws:
        place, wanted = recipe.where("generation"), "a model that writes token by token"
        said = f"{auto_model}, which chooses for all frames at once"
        problems.append(Problem(place, "generation.on_policy", said, wanted, "leave it out"))
    if problems:
        raise UserError(problems)
    if spec := recipe.data.augment:
        originals = {row.key: row for row in [*rows["train"], *rows["unlabeled"]]}.values()
        rows["augmented"] = [v for row in originals for v in augment.variants(row, task_class, spec, recipe.seed)]
        encoded["augmented"] = [_encode(task, row, "augmented") for row in rows["augmented"]]
    notices += task.notices([example for row in encoded["train"] for example in row])
    trained_head = names == known_names(head, names)
    material = Material(
        recipe,
        task,
        source,
        config,
        auto_model,
        processor,
        not trained_head,
        own,
        rows,
        encoded,
        files,
        old,
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
    if isinstance(recipe.model, NewModel):
        return NEW
    name = recipe.model.teacher if isinstance(recipe.model, StudentFrom) else recipe.model
    return models.locate(name, recipe.path, recipe.where("model"), "model")


def _reference_sources(recipe: Recipe) -> list[str]:
    spec = recipe.reference_spec()
    if spec is None or spec.model is None or spec.origin == "served":
        return []
    names = [spec.model] if isinstance(spec.model, str) else spec.model
    return [models.locate(name, recipe.path, recipe.where("reference"), "reference") for name in names]


def _from_model(recipe: Recipe, teachers: Sequence[str], source: str) -> bool:
    """Whether the reference is the student itself as it was before training: none is named, or the same model is."""
    spec = recipe.reference_spec()
    if spec is None or spec.origin == "served":
        return False
    return not teachers or (isinstance(recipe.model, str) and list(teachers) == [source])


def _rows(
    recipe: Recipe, task_class: type[Task], columns: Sequence[Column], problems: list[Problem]
) -> tuple[dict[str, list[Row]], list[Problem]]:
    """Every split's rows; the problems that stop the run go to `problems`, those of skipped rows are returned."""
    spec = recipe.data
    skipped: list[Problem] = []
    mapped_in_vain = isinstance(spec.labels, dict) and labels_of(task_class) is not None
    if mapped_in_vain:
        found, expected = "a map from names to names", "a list of names: only a column `label` can be mapped"
        place = recipe.where("data.labels")
        problems.append(Problem(place, "data.labels", found, expected, "rename them in the data", "labels mapped"))

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
        found, faulty = sound_rows(task_class, found, labelled=labelled)
        (skipped if spec.bad_rows == "skip" else problems).extend(faulty)
        old = recipe.objective.anchor_head == "source" and where.startswith("data.source.")  # of other labels
        if isinstance(spec.labels, dict) and labelled and not mapped_in_vain and not old:
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
        "source_train": read(spec.source.train, "data.source.train", "train"),
        "source_unlabeled": read(spec.source.unlabeled, "data.source.unlabeled", "train", labelled=False),
        "source_validation": read(spec.source.validation, "data.source.validation", "validation"),
        "augmented": [],
    }
    return rows, skipped


def sound_rows(
    task_class: type[Task], rows: Sequence[Row], *, labelled: bool = True
) -> tuple[list[Row], list[RowProblem]]:
    """The rows without those that the task finds fault with, and their faults; not `labelled`: they are only read."""
    sound: list[Row] = []
    problems: list[RowProblem] = []
    for row in rows:
        found = [row_problem(row, fault) for fault in task_class.faults(row, labelled=labelled)]
        problems += found
        if not found:
            sound.append(row)
    return sound, problems


def needs_text(recipe: Recipe, task: Task, encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether a teacher must write a text for rows without labels: as their label, or to predict anything."""
    return task.generates and bool(encoded) and (silent(encoded) or recipe.data.unlabeled_as == "labels")


def silent(encoded: Sequence[Sequence[Example]]) -> bool:
    """Whether nothing is predicted in these rows, as they have no text and their predictions are its tokens."""
    return not any(example.predictions for row in encoded for example in row)


def task_problems(task: Task, recipe: Recipe) -> list[Problem]:
    """What the task, now that its model is known, cannot do with the recipe."""
    return [Problem(recipe.where(f.field), f.field, f.found, f.expected, f.mend, f.kind) for f in task.recipe_faults()]


def _emptied(recipe: Recipe, rows: dict[str, list[Row]], skipped: Sequence[Problem]) -> list[Problem]:
    """Splits of which `bad_rows: skip` left nothing."""
    spec = recipe.data
    named = [("train", spec.train), ("validation", spec.validation), ("test", spec.test), ("unlabeled", spec.unlabeled)]
    named += [("source" if n == "test" else f"source_{n}", getattr(spec.source, n)) for n in Source.model_fields]
    return [
        Problem(recipe.where(field_of(name)), field_of(name), f"{shown(file)}, every row of which is skipped", "rows",
                "mend the rows; what is wrong with them: bad_rows: refuse")
        for name, file in named
        if skipped and isinstance(file, str) and not rows[name]
    ]  # fmt: skip


def _old_head(
    recipe: Recipe, task_class: type[Task], processor: Any, settings: Settings, head: list[str] | None, source: str
) -> Task:
    """The task as the second head has it: with the old labels, or with masked tokens."""
    place = recipe.where("objective")
    if recipe.objective.anchor_head == "source":
        if not head:
            found, expected = "a model whose head has no names", "one that was trained for the old labels"
            mend = "fine-tune it on the source domain first, or write anchor_head: masked-lm"
            raise UserError(Problem(place, "objective.anchor_head", found, expected, mend))
        return task_class(processor, replace(settings, labels=head, class_weights=None))
    masked = Masked(processor, replace(settings, labels=[]))
    if missing := models.untrained_head(source, settings.config, masked.auto_models[0]):
        found, expected = f"{shown(source)} without {', '.join(missing[:3])}", "a pretrained head of masked tokens"
        raise UserError(Problem(place, "objective.anchor_head", found, expected, "write anchor_head: source"))
    if masked.tokenizer.mask_token_id is None:
        found, expected = "a tokenizer without a mask token", "an encoder that was trained on masked tokens"
        raise UserError(Problem(place, "objective.anchor_head", found, expected, "write anchor_head: source"))
    masked.seed = recipe.seed
    return masked


def _encoded(
    task: Task, rows: dict[str, list[Row]], old: Task | None = None
) -> tuple[dict[str, list[list[Example]]], list[RowProblem]]:
    """Each split's rows as examples; rows that this model cannot take leave `rows`, with their problems.

    `old` encodes the rows of a source domain that has labels of its own.
    """
    encoded: dict[str, list[list[Example]]] = {}
    problems: list[RowProblem] = []
    for name, split in rows.items():
        reader = old if old is not None and name in OLD else task
        rows[name], encoded[name], faulty = encode_rows(reader, split, partial(_encode, reader, split=name))
        problems += faulty
    return encoded, problems


def encode_rows(
    task: Task, rows: Sequence[Row], encode: Callable[[Row], list[Example]]
) -> tuple[list[Row], list[list[Example]], list[RowProblem]]:
    """The rows that this model can take, their examples, and the problems of the others."""
    taken: list[Row] = []
    encoded: list[list[Example]] = []
    problems: list[RowProblem] = []
    for row in rows:
        found: list[Problem | Fault] = []
        examples: list[Example] = []
        try:
            examples = encode(row)
            found += task.row_faults(row, examples)
        except UserError as error:  # of this row alone, such as a recording too short to be heard
            found += error.problems
        problems += [row_problem(row, fault) for fault in found]
        if not found:
            taken.append(row)
            encoded.append(examples)
    return taken, encoded, problems


def row_problem(row: Row, fault: Fault | Problem) -> RowProblem:
    """A fault as a problem of its row."""
    place = f"{row.file}:{row.line}"
    return RowProblem(
        place, fault.field, fault.found, fault.expected, fault.mend, fault.kind, file=row.file, line=row.line
    )


def _encode(task: Task, row: Row, split: str) -> list[Example]:
    """A row's examples, with the encodings that other readers of the same row need where it is trained on."""
    if split in SCORED:
        return task.encode_scored(row)
    return task.encode_for_all(row, labelled=split in LEARNT)


def field_of(split: str) -> str:
    """The recipe's field that names a split's file."""
    if split == "source":
        return "data.source.test"
    return f"data.source.{split.removeprefix('source_')}" if split.startswith("source_") else f"data.{split}"


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
    template = "{cut} of {all} rows of {split} ({share:.1%}) are longer than {most} tokens and are cut"
    return Problem(
        recipe.where(field_of(split)),
        split,
        Said(template, cut=cut, all=total, split=Said(split), share=cut / total, most=max_length),
        Said("rows that fit"),
        Said("raise max_length if the model allows it, or shorten the texts; what is cut is not read"),
        severity="warning",
    )
