"""What fits together: a model with what it is to read and write, a reference with its student. No weights.

A reference that does not fit is refused by what differs: the names of its labels, its tokens, its places in a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from keeltune import evaluation, models, surgery, vocabularies
from keeltune.analysis.counterfactual import read_terms
from keeltune.analysis.slices import FEW_CLUSTERS
from keeltune.data import Row
from keeltune.problems import Problem, UserError, shown
from keeltune.recipe import Recipe, StudentFrom
from keeltune.tasks.task import Settings, Task

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


def known_names(head: list[str] | None, names: list[str]) -> list[str] | None:
    """A head's names; `LABEL_n` is no name, but where the data's labels are whole numbers it stands for n."""
    if head and all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        return [name.removeprefix("LABEL_") for name in head] if all(n.isdigit() for n in names) else None
    return head


def reading_length(
    asked: int | None, config: Any, processor: Any, task_class: type[Task], auto_model: str, where: str
) -> int | None:
    """The smaller of the tokenizer's and the model's maximum, or what is asked for, which must not be larger.

    Pictures and sound are no tokens: only what is asked for bounds them.
    """
    if task_class.reads != "text":
        return asked
    shape = models.skeleton(config, auto_model, where, "model")
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


def writing_length(asked: int | None, config: Any, max_length: int | None) -> int | None:
    """The most tokens of a target: what is asked for, or what a decoder can write; half of all where it reads too."""
    bound = models.target_positions(config)
    if not getattr(config, "is_encoder_decoder", False):
        bound = None if max_length is None else max(2, max_length // 2)
    return min((b for b in (asked, bound) if b is not None), default=None)


def references(
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
        config = models.read_config(source, where, "reference")
        theirs = models.read_processor(source, where, "reference", task_class.reads)
        models.prepare_tokenizer(config, theirs)
        auto_model = models.pick(task_class.auto_models, config, where, "reference")
        names = known_names(models.head_names(config), list(settings.labels)) or models.head_names(config) or []
        names = names if task_class.choices == "labels" else []
        if missing := models.untrained_head(source, config, auto_model):
            problems.append(no_trained_head(source, missing, where))
            continue
        if set(names) != set(settings.labels):
            problems.append(_other_labels(where, source, names, settings.labels))
            continue
        relation, sizes = None, list[int | None]()
        if task_class.choices == "tokens" and compared:
            sizes = [_choices(c, p) for c, p in ((settings.config, processor), (config, theirs))]
            relation = vocabularies.compare(*map(models.tokenizer_of, (processor, theirs)), *sizes)
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


def regularizer_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """Regularisers that have no meaning for this task or this model. No weights."""
    asked, config = recipe.training.regularizers, task.settings.config
    nothing = torch.zeros(0)
    alignments = task.sliced_cross_entropy({"targets": nothing.long(), "weights": nothing}) is None
    whole = "the loss of a text is that of all its alignments (CTC), no sum over predictions"
    media = f"what is read is {task.reads}, no tokens that have embeddings"
    same = "two passes differ by dropout alone, and this model has none (all its rates are 0)"
    lora = recipe.training.lora
    reasons = {
        "label_smoothing": {whole: alignments},
        "r_drop": {whole: alignments, same: not surgery.drops_out(config) and not (lora and lora.dropout)},
        "fgm": {media: task.reads != "text"},
        "freeze_embeddings": {media: task.reads != "text"},
    }
    problems = [
        recipe.problem(f"training.regularizers.{name}", expected=f"no {name}: {reason}", mend="leave it out")
        for name, why in reasons.items()
        for reason, holds in why.items()
        if holds and getattr(asked, name)
    ]
    if asked.layer_decay or asked.new_top_layers:
        place, auto_model = recipe.where("model"), task.settings.auto_model
        if isinstance(recipe.model, StudentFrom):
            _, config = surgery.student_config(config, auto_model, recipe.model.layers, place, "model.layers")
        found = surgery.stacks(models.skeleton(config, auto_model, place, "model"))
        for name in (name for name in ("layer_decay", "new_top_layers") if getattr(asked, name) and not found):
            said = f"{config.model_type}, whose layers lie in no ModuleList of the configuration's length"
            mend = "leave it out, or take another architecture"
            field = f"training.regularizers.{name}"
            problems.append(recipe.problem(field, found=said, expected="layers one below the other", mend=mend))
        depth = list(found.values())[-1] if found else 0
        if found and asked.new_top_layers and asked.new_top_layers > depth:
            field, told = "training.regularizers.new_top_layers", f"at most {depth}, the layers of the last stack"
            problems.append(recipe.problem(field, expected=told, mend=f"write {depth} at most"))
    return problems


def _same_encoding(ours: Task, theirs: Task, probes: Sequence[Row]) -> bool:
    """Whether two models read rows alike: the same bytes for every id, and the same inputs for the probes.

    Equal tokens do not prove it: one model may want the segments of a pair, where the other has none.
    """
    a, b = ours.tokenizer, theirs.tokenizer
    padding = [(t.pad_token_id, t.padding_side) for t in (a, b)]
    if padding[0] != padding[1] or vocabularies.tokens(a) != vocabularies.tokens(b):
        return False
    return all(
        _alike(
            [e.inputs for e in ours.encode(row, labelled=False)], [e.inputs for e in theirs.encode(row, labelled=False)]
        )
        for row in probes
    )


def _other_count(source: str, ours: Task, theirs: Task, probes: Sequence[Row]) -> tuple[str, str, str] | None:
    """Why a reference has other predictions in a row than the student, as (found, expected, mend): other frames."""
    for row in probes[:20]:
        a, b = (sum(e.predictions for e in task.encode(row, labelled=False)) for task in (ours, theirs))
        if a != b:
            found = f"{shown(source)}, which makes {b} predictions of {row.file}:{row.line}"
            mend = "take a reference of the same kind, with the same convolutions before its encoder"
            return found, f"the student's {a}: a prediction for each frame of it", mend
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
    rows = models.vocabulary_size(config)
    return rows if rows is None else rows + models.lacks_padding(rows, models.tokenizer_of(processor))


def _other_tokens(
    source: str, relation: vocabularies.Relation, student: Any, reference: Any
) -> tuple[str, str, str] | None:
    """Why a reference cannot say what the student's next token should be, as (found, expected, mend)."""
    mend = (
        "take a reference of the same family; or let it write the targets, which needs texts alone (generation: "
        "{targets: reference}, objective: {weight: 0}); or a task whose predictions are classes, which any tokenizer "
        "may read"
    )
    if relation.kind == "different":
        first = relation.differing[:5]
        told = "; ".join(f"{i}: {theirs or 'none'}, the student's {ours or 'none'}" for i, ours, theirs in first)
        found = f"{shown(source)}, whose tokenizer has other tokens at the ids {', '.join(str(i) for i, _, _ in first)}"
        of = f"; {len(relation.differing)} ids differ" if len(relation.differing) > len(first) else ""
        return f"{found} ({told}{of})", "the student's tokenizer: the same bytes for every id", mend
    starts = [getattr(c, "decoder_start_token_id", None) for c in (student, reference)]
    if starts[0] != starts[1]:
        return f"{shown(source)}, whose decoder starts from token {starts[1]}", f"the student's start {starts[0]}", mend
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
    source: str, relation: vocabularies.Relation, sizes: Sequence[int | None]
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


def own_head(
    recipe: Recipe, source: str, config: Any, head: list[str] | None, names: list[str], auto_model: str
) -> None:
    """The model as it was before training can be the reference only if its head knows these labels."""
    where = recipe.where("method")
    if source == NEW:
        raise UserError(no_trained_head(source, ["all weights"], where))
    if missing := models.untrained_head(source, config, auto_model):
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


def no_columns(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
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
                recipe.problem(f"evaluation.{name_of}", expected=expected, mend="name one of them, or leave it out")
            )
    return problems


def few_clusters(recipe: Recipe, scored: Mapping[str, Sequence[Row]]) -> list[Problem]:
    """Warnings of splits with so few clusters that drawing them again shows next to nothing; with one, nothing."""
    column, problems = recipe.evaluation.clusters, list[Problem]()
    for split, rows in scored.items() if column else ():
        own = evaluation.numbers_of(rows, column)
        if own is not None and own.max() + 1 < FEW_CLUSTERS:
            found = f"{own.max() + 1} clusters in the rows of {split}"
            expected = f"{FEW_CLUSTERS} or more: over fewer, intervals and bounds are too narrow; over one, a point"
            place, mend = recipe.where("evaluation.clusters"), "score more of them, or leave clusters out"
            problems.append(Problem(place, "evaluation.clusters", found, expected, mend, severity="warning"))
    return problems
