"""What fits together: a model with what it is to read and write, a reference with its student. No weights.

A reference that does not fit is refused by what differs: the names of its labels, its tokens, its places in a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keeltune.data.dataset import Row
from keeltune.data.labels import known_names
from keeltune.models import loading, processors, tokenizer_match
from keeltune.recipe.fields import Recipe
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.training.preparation.lengths import reading_length
from keeltune.utils.errors import Problem, UserError, shown

NEW = "a new model"
"""What stands for the source of a model that starts from random weights."""

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
    """

    source: str
    names: list[str]
    reader: Task | None
    companion: str | None
    auto_model: str
    shared: Sequence[int] | None = None
    notice: str = ""


def compatible_references(
    recipe: Recipe,
    sources: Sequence[str],
    processor: Any,
    settings: Settings,
    task_class: type[Task],
    rows: dict[str, list[Row]],
) -> tuple[list[ReferenceFiles], dict[str, Task]]:
    """The reference's models, checked by label name; those that read text otherwise get an encoding of their own.

    A teacher that only writes the targets is compared with nothing: it may have any tokenizer.
    """
    compared = not recipe.only_writes()
    probes = [*rows["train"], *rows["unlabeled"]][:PROBES]
    files, companions = [], {}
    problems: list[Problem] = []
    where = recipe.where("reference")
    for number, source in enumerate(sources):
        config = loading.read_config(source, where, "reference")
        theirs = processors.read_processor(source, where, "reference", task_class.reads)
        processors.prepare_tokenizer(config, theirs)
        auto_model = loading.pick(task_class.auto_models, config, where, "reference")
        names = known_names(loading.head_names(config), list(settings.labels)) or loading.head_names(config) or []
        names = names if task_class.choices == "labels" else []
        if missing := loading.untrained_head(source, config, auto_model):
            problems.append(no_trained_head(source, missing, where))
            continue
        if set(names) != set(settings.labels):
            problems.append(_other_labels(where, source, names, settings.labels))
            continue
        relation, sizes = None, list[int | None]()
        if task_class.choices == "tokens" and compared:
            sizes = [_choices(c, p) for c, p in ((settings.config, processor), (config, theirs))]
            relation = tokenizer_match.compare(*map(processors.tokenizer_of, (processor, theirs)), *sizes)
            if reason := _other_tokens(source, relation, settings.config, config):
                problems.append(Problem(where, "reference", *reason))
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
        reach = reading_length(None, config, theirs, task_class, auto_model, where)
        short = reach is not None and (settings.max_length is None or reach < settings.max_length)
        bounds = [b for b in (reach, settings.max_length) if b is not None]
        own = replace(settings, max_length=min(bounds, default=None), config=config, auto_model=auto_model)
        reader = task_class(theirs, own)
        if relation is not None and (reason := _other_count(source, task_class(processor, settings), reader, probes)):
            problems.append(Problem(where, "reference", *reason))
            continue
        same = not short and _same_encoding(task_class(processor, settings), reader, probes)
        if not same and task_class.choices == "positions":
            problems.append(_other_positions(where, source))
            continue
        companion = None if same or not compared else f"reference_{number}"
        if companion is not None:
            companions[companion] = reader
        shared, notice = None, ""
        if relation is not None:
            if recipe.generation.on_policy and (companion is not None or (sizes[0] or 0) > (sizes[1] or 0)):
                problems.append(_unreadable(recipe, source, sizes))
                continue
            shared, notice = _shared(source, relation, sizes)
        files.append(ReferenceFiles(source, names, None if same else reader, companion, auto_model, shared, notice))
    if problems:
        raise UserError(problems)
    return _on_common_tokens(files), companions


def _same_encoding(ours: Task, theirs: Task, probes: Sequence[Row]) -> bool:
    """Whether two models read rows alike: the same bytes for every id, and the same inputs for the probes.

    Equal tokens do not prove it: one model may want the segments of a pair, where the other has none.
    """
    a, b = ours.tokenizer, theirs.tokenizer
    padding = [(t.pad_token_id, t.padding_side) for t in (a, b)]
    if padding[0] != padding[1] or tokenizer_match.tokens(a) != tokenizer_match.tokens(b):
        return False
    return all(
        _alike(
            [e.inputs for e in ours.encode(row, labelled=False)], [e.inputs for e in theirs.encode(row, labelled=False)]
        )
        for row in probes
    )


def _other_count(source: str, ours: Task, theirs: Task, probes: Sequence[Row]) -> tuple[str, str, str] | None:
    """Why a reference has other predictions in a row than the student, as (found, expected, fix): other frames."""
    for row in probes[:20]:
        a, b = (sum(e.predictions for e in task.encode(row, labelled=False)) for task in (ours, theirs))
        if a != b:
            found = f"{shown(source)}, which makes {b} predictions of {row.file}:{row.line}"
            fix = "take a reference of the same kind, with the same convolutions before its encoder"
            return found, f"the student's {a}: a prediction for each frame of it", fix
    return None


def _alike(a: Any, b: Any) -> bool:
    """Equality of nested lists, mappings and arrays."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list) and a and isinstance(a[0], Mapping):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _choices(config: Any, processor: Any) -> int | None:
    """V of a model as it will be loaded, with the embedding that its padding token gets; None where none is said."""
    rows = processors.vocabulary_size(config)
    return rows if rows is None else rows + processors.lacks_padding(rows, processors.tokenizer_of(processor))


def _other_tokens(
    source: str, relation: tokenizer_match.Relation, student: Any, reference: Any
) -> tuple[str, str, str] | None:
    """Why a reference cannot say what the student's next token should be, as (found, expected, fix)."""
    fix = (
        "take a reference of the same family; or let it write the targets, which needs texts alone (generation: "
        "{targets: reference}, objective: {weight: 0}); or a task whose predictions are classes, which any tokenizer "
        "may read"
    )
    if relation.kind == "different":
        first = relation.differing[:5]
        told = "; ".join(f"{i}: {theirs or 'none'}, the student's {ours or 'none'}" for i, ours, theirs in first)
        found = f"{shown(source)}, whose tokenizer has other tokens at the ids {', '.join(str(i) for i, _, _ in first)}"
        of = f"; {len(relation.differing)} ids differ" if len(relation.differing) > len(first) else ""
        return f"{found} ({told}{of})", "the student's tokenizer: the same bytes for every id", fix
    starts = [getattr(c, "decoder_start_token_id", None) for c in (student, reference)]
    if starts[0] != starts[1]:
        return f"{shown(source)}, whose decoder starts from token {starts[1]}", f"the student's start {starts[0]}", fix
    return None


def _unreadable(recipe: Recipe, source: str, sizes: Sequence[int | None]) -> Problem:
    """The student draws token ids of its own, and the reference must read those very ids."""
    return Problem(
        recipe.where("generation"),
        "generation.on_policy",
        f"{shown(source)}, which reads texts in its own encoding, or knows fewer ids ({sizes[1]}) than the student "
        f"({sizes[0]})",
        "a reference that reads every id that the student may draw, just as the student reads it",
        "leave on_policy out, or take a reference with the student's tokenizer and at least its rows and max_length",
    )


def _shared(
    source: str, relation: tokenizer_match.Relation, sizes: Sequence[int | None]
) -> tuple[Sequence[int] | None, str]:
    """The ids on which reference and student are compared, None for all, and what to say of it."""
    if relation.kind == "same":
        return None, ""
    rest = "the rest belong to no token" if relation.kind == "padded" else "the other has no token for the rest"
    return relation.shared, (
        f"{shown(source)} shares {len(relation.shared)} tokens with the student, of its {sizes[1]} choices and the "
        f"student's {sizes[0]} ({rest}); the divergence is taken over these, both sides renormalised"
    )


def _on_common_tokens(files: Sequence[ReferenceFiles]) -> list[ReferenceFiles]:
    """Several references are averaged, so that all are compared on the ids that all share with the student."""
    cut = [set(each.shared) for each in files if each.shared is not None]
    if not cut:
        return list(files)
    return [replace(each, shared=sorted(set.intersection(*cut))) for each in files]


def _other_positions(where: str, source: str) -> Problem:
    return Problem(
        where,
        "reference",
        f"{shown(source)}, which cuts these texts into other tokens",
        "a reference that reads the rows as the student does: an answer's start and end are places among its tokens",
        "take a reference with the student's tokenizer and at least its max_length",
    )


def check_student_head(
    recipe: Recipe, source: str, config: Any, head: list[str] | None, names: list[str], auto_model: str
) -> None:
    """The model as it was before training can be the reference only if its head knows these labels."""
    where = recipe.where("method")
    if source == NEW:
        raise UserError(no_trained_head(source, ["all weights"], where))
    if missing := loading.untrained_head(source, config, auto_model):
        raise UserError(no_trained_head(source, missing, where))
    if names and known_names(head, names) != names:
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
        "take a reference trained on these labels, or map the data's names to its names with data.labels; cross-domain "
        "can also hold the old head beside the new one (objective.anchor_head: source), or the pretrained head of "
        "masked tokens (masked-lm)",
    )
