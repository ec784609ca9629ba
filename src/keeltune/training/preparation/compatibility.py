"""What fits together: a reference with its student. No weights.

A reference that does not fit is refused by what differs: the names of its labels, its tokens, its places in a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from keeltune.data.dataset import Row
from keeltune.data.labels import known_names
from keeltune.models import configuration, loading, processors, shapes, tokenizer_match
from keeltune.models.generation import stored_generation
from keeltune.models.vocabulary import CTC, Bounds, bounds_of, vocabulary_size
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.training.preparation.head_compatibility import no_trained_head, other_labels
from keeltune.training.preparation.lengths import reading_length
from keeltune.training.preparation.token_compatibility import (
    other_count,
    other_tokens,
    shared_tokens,
    unreadable,
)
from keeltune.utils.errors import Problem, UserError, shown

PROBES = 200
"""Texts on which two tokenizers must agree before they count as the same."""


@dataclass(frozen=True)
class ReferenceFiles:
    """One model of the reference, not loaded yet.

    source       where it lies
    names        its label names in its order
    reader       the task as this model reads and writes it; None: as the student does
    companion    the batch entry that is made by its reader; None where it reads the student's inputs, or only writes
    auto_model   the class that loads it
    shared       the token ids on which it is compared with the student; None: on all choices
    notice       what users should know of its tokens
    bounds       the ids that it knows
    """

    source: str
    names: list[str]
    reader: Task | None
    companion: str | None
    auto_model: str
    shared: Sequence[int] | None = None
    notice: str = ""
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class ComparedStudent:
    """What a reference is compared with: how the student reads the rows of the recipe."""

    recipe: Recipe
    task_class: type[Task]
    processor: Any
    settings: Settings
    rows: Mapping[str, Sequence[Row]]

    @property
    def probes(self) -> list[Row]:
        return [*self.rows["train"][:PROBES], *self.rows["unlabeled"][:PROBES]][:PROBES]

    @cached_property
    def task(self) -> Task:
        return self.task_class(self.processor, self.settings)

    @property
    def only_writes(self) -> bool:
        """Whether the teacher writes the targets and is compared with nothing: it may have any tokenizer."""
        return self.recipe.only_writes()


@dataclass(frozen=True)
class _Candidate:
    """A model that may become the reference: its configuration, what reads for it, its label names, and the weights of
    its head that its folder does not hold."""

    source: str
    config: Any
    processor: Any
    auto_model: str
    names: list[str]
    untrained: list[str]


def compatible_references(student: ComparedStudent, sources: Sequence[str]) -> list[ReferenceFiles]:
    """The reference's models, checked by label name; those that read text otherwise get an encoding of their own."""
    compared = [_compare(student, number, source) for number, source in enumerate(sources)]
    if problems := [result for result in compared if isinstance(result, Problem)]:
        raise UserError(problems)
    return _on_common_tokens([result for result in compared if isinstance(result, ReferenceFiles)])


def companions_of(references: Sequence[ReferenceFiles]) -> dict[str, Task]:
    """The readers of references with an encoding of their own, by their batch entry's name."""
    return {f.companion: f.reader for f in references if f.companion is not None and f.reader is not None}


def _compare(student: ComparedStudent, number: int, source: str) -> ReferenceFiles | Problem:
    """One model of the reference, or why it does not fit."""
    recipe, where, candidate = student.recipe, student.recipe.where("reference"), _read(student, source)
    if problem := _head_problem(student, candidate):
        return problem
    relation, sizes = None, list[int | None]()
    if student.task_class.choices == "tokens" and not student.only_writes:
        pairs = ((student.settings.config, student.processor), (candidate.config, candidate.processor))
        sizes = [vocabulary_size(config) for config, _ in pairs]
        tokenizers = [processors.tokenizer_of(processor) for _, processor in pairs]
        relation = tokenizer_match.compare(*tokenizers, *sizes)
        starts = [getattr(config, "decoder_start_token_id", None) for config, _ in pairs]
        if problem := other_tokens(where, source, relation, starts):
            return problem
    if problem := _kind_problem(student, candidate):
        return problem
    reader, is_shorter = _reader(student, candidate)
    if relation is not None and (problem := other_count(where, source, student.task, reader, student.probes)):
        return problem
    same = not is_shorter and _same_encoding(student.task, reader, student.probes)
    if not same and student.task_class.choices == "positions":
        return _other_positions(where, source)
    companion = None if same or student.only_writes else f"reference_{number}"
    shared, notice = None, ""
    if relation is not None:
        if recipe.generation.on_policy and (companion is not None or (sizes[0] or 0) > (sizes[1] or 0)):
            return unreadable(recipe, source, sizes)
        shared, notice = shared_tokens(source, relation, sizes)
    own_reader, known = None if same else reader, reader.settings.bounds
    return ReferenceFiles(source, candidate.names, own_reader, companion, candidate.auto_model, shared, notice, known)


def _read(student: ComparedStudent, source: str) -> _Candidate:
    where, task_class = student.recipe.where("reference"), student.task_class
    config = configuration.read_config(source, where, "reference")
    processor = processors.read_processor(source, where, "reference", task_class.reads)
    auto_model = loading.pick(task_class.auto_models, config, where, "reference")
    loading.fit_head(source, config, processor, auto_model)
    untrained = loading.check_weights(source, config, auto_model, where, "reference")
    processors.prepare_tokenizer(config, processor, spells=auto_model == CTC)
    head = configuration.head_names(config)
    names = known_names(head, list(student.settings.labels)) or head or []
    if task_class.choices == "numbers" and len(names) == len(student.settings.labels):
        names = list(student.settings.labels)  # numbers go by their order
    named = task_class.choices in ("labels", "numbers")
    return _Candidate(source, config, processor, auto_model, names if named else [], untrained)


def _head_problem(student: ComparedStudent, candidate: _Candidate) -> Problem | None:
    """A head that was never trained, or one for other labels."""
    where, labels = student.recipe.where("reference"), student.settings.labels
    if candidate.untrained:
        return no_trained_head(candidate.source, candidate.untrained, where)
    if set(candidate.names) != set(labels):
        return other_labels(where, candidate.source, candidate.names, labels)
    return None


def _kind_problem(student: ComparedStudent, candidate: _Candidate) -> Problem | None:
    """A head that chooses one label of a row where the student chooses several, or the other way round."""
    kinds = {True: "multi_label_classification", False: "single_label_classification"}
    multi_label = student.settings.multi_label
    if student.task_class.choices == "numbers":
        kinds = {False: "regression", True: "single_label_classification"}
    if getattr(candidate.config, "problem_type", None) != kinds[not multi_label]:
        return None
    return Problem(
        student.recipe.where("reference"),
        "reference",
        f"{shown(candidate.source)} was trained as {candidate.config.problem_type}",
        f"{kinds[multi_label]}, as this recipe trains",
        "take a reference trained with the same multi_label",
    )


def _reader(student: ComparedStudent, candidate: _Candidate) -> tuple[Task, bool]:
    """The task as the candidate reads it, and whether it reads less of a row than the student."""
    where, most, task_class = student.recipe.where("reference"), student.settings.max_length, student.task_class
    shape = shapes.shape_of(candidate.config, candidate.auto_model, where, "reference")
    if problem := loading.misfit(shape, candidate.processor):
        raise UserError(Problem(where, "reference", *problem))
    reach = reading_length(None, shape, candidate.processor, task_class, where)
    max_length = min((length for length in (reach, most) if length is not None), default=None)
    settings = replace(
        student.settings, max_length=max_length, config=candidate.config, auto_model=candidate.auto_model,
        bounds=bounds_of(shape),
    )  # fmt: skip
    if task_class.generates:
        settings = replace(settings, stored=stored_generation(candidate.source, candidate.config, where, "reference"))
    return task_class(candidate.processor, settings), reach is not None and (most is None or reach < most)


def _same_encoding(student: Task, reference: Task, probes: Sequence[Row]) -> bool:
    """Whether two models read rows alike: the same bytes for every id, and the same inputs for the probes.

    Equal tokens do not prove it: one model may want the segments of a pair, where the other has none.
    """
    a, b = student.tokenizer, reference.tokenizer
    padding = [(t.pad_token_id, t.padding_side) for t in (a, b)]
    if padding[0] != padding[1] or tokenizer_match.tokens(a) != tokenizer_match.tokens(b):
        return False
    return all(_alike(*(_inputs(task, row) for task in (student, reference))) for row in probes)


def _inputs(task: Task, row: Row) -> list[Mapping[str, Any]]:
    return [example.inputs for example in task.encode(row, labelled=False)]


def _alike(a: Any, b: Any) -> bool:
    """Equality of nested lists, mappings and arrays."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], Mapping):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _on_common_tokens(references: Sequence[ReferenceFiles]) -> list[ReferenceFiles]:
    """Several references are averaged, so that all are compared on the ids that all share with the student."""
    partial = [set(files.shared) for files in references if files.shared is not None]
    if not partial:
        return list(references)
    return [replace(files, shared=sorted(set.intersection(*partial))) for files in references]


def _other_positions(where: str, source: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)}, which cuts these texts into other tokens",
        "a reference that reads the rows as the student does: an answer's start and end are places among its tokens",
        "take a reference with the student's tokenizer and at least its max_length",
    )
