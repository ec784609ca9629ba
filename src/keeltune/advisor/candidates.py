"""The ways to train that a recipe's own material allows, each as a recipe; and why the others are out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from keeltune.models import model_files
from keeltune.recipe import from_dict
from keeltune.recipe.fields import Recipe
from keeltune.training.preparation import prepare
from keeltune.training.preparation.material import SCORED, Material
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.messages import Message

PLAIN = "plain"

COSTS = {"replay": 1.3, "anchored": 1.2, "anchored on source inputs": 2.2, "distilled": 1.2,
         "distilled with a pool": 2.2, "pseudo-labels": 2.0}  # fmt: skip
"""Until its own pilot says: what `benchmarks/cache_cost.py` found, the default mix of streams."""

BETWEEN = 0.75
"""The point of the interpolated arm. It is fixed: one that is chosen on the rows of the comparison is never worse."""


@dataclass(frozen=True)
class Arm:
    """One way to train. `values` is the whole recipe as YAML would give it, without what a pilot sets itself."""

    name: str
    description: str
    values: dict[str, Any] = field(repr=False)
    cost: float = 1.0
    """What a step of it costs, as a multiple of plain fine-tuning's: the rows of its streams."""


class Additions(TypedDict, total=False):
    """What a caller adds to a recipe, which is one method's and cannot name all of it."""

    teacher: str | None
    pool: str | None
    source_texts: str | None


@dataclass(frozen=True)
class Resources:
    """What there is beside the labelled rows: a teacher, texts without labels, inputs of the source domain."""

    teacher: Any = None
    pool: str | None = None
    source_texts: str | None = None


def resources_of(recipe: Recipe, additions: Additions) -> Resources:
    """What the caller adds, else what the recipe names."""
    values, source = recipe.model_dump(by_alias=True, exclude_unset=True), recipe.data.source
    teacher = values.get("reference") if recipe.method == "distillation" else None
    return Resources(
        additions.get("teacher") or teacher,
        additions.get("pool") or recipe.data.unlabeled,
        additions.get("source_texts") or source.unlabeled or source.train,
    )


def check_additions(recipe: Recipe, additions: Additions) -> None:
    """UserError for what the caller adds and does not exist: that is a slip, and no reason to rule an arm out."""
    problems = []
    if (teacher := additions.get("teacher")) is not None:
        try:
            model_files.locate(teacher, recipe.path, "the call", "--teacher")
        except UserError as error:
            problems += error.problems
    for option, file in (("--pool", additions.get("pool")), ("--source-texts", additions.get("source_texts"))):
        if file is not None and not file.startswith("hub:") and not recipe.path(file).exists():
            found, expected = f"{file}, tried as {recipe.path(file)}", "a file or a folder of rows"
            problems.append(Problem("the call", option, found, expected, "correct the path"))
    if problems:
        raise UserError(problems)


def candidate_arms(recipe: Recipe, resources: Resources) -> tuple[list[Arm], dict[str, str]]:
    """The arms in the order of their simplicity, plain fine-tuning first, and those that are out: {name: why}."""
    arms, ruled_out = [plain_arm(recipe)], dict[str, str]()
    _without_lost_columns(arms[0].values, recipe)
    source = recipe.data.source
    old = source.validation is not None and recipe.objective.anchor_head == "task"
    no_source = Message("no data.source.validation: nothing says what would be kept of an old domain")

    def add(name: str, description: str, reasons: Sequence[str | None], values: dict[str, Any]) -> None:
        reason = next((reason for reason in reasons if reason), None) or _refused(recipe, values)
        if reason:
            ruled_out[name] = reason
        else:
            arms.append(Arm(name, description, values, COSTS.get(name, 1.0)))

    base, written = arms[0].values, recipe.model_dump(by_alias=True, exclude_unset=True)
    between = Message("plain fine-tuning, then the point {at:g} of the way from its start to its end", at=BETWEEN)
    add("interpolated", between, [None if old else no_source], _with(base, training={"interpolate": BETWEEN}))
    replayed = _with(base, data={"source": {"train": source.train}})
    add("replay", Message("labelled rows of the old domain mixed in"),
        [None if old else no_source,
         None if source.train else Message("no data.source.train: no labelled rows to replay")],
        replayed)  # fmt: skip
    anchored, weights = _with(base, method="cross-domain"), dict[str, Any]()
    if recipe.method == "cross-domain":
        objective = {k: v for k, v in written.get("objective", {}).items() if k not in ("anchor_on", "weight")}
        anchored = _with(anchored, objective=objective, reference=written.get("reference"))
        where, chosen = recipe.objective.anchor_on, written.get("objective", {}).get("weight")
        weights = {name: chosen for name in ("target", "source") if where in (name, "both")}  # chosen for those inputs
    add("anchored", Message("held near the source model on the new domain's rows"), [None if old else no_source],
        _with(anchored, objective={"weight": weights.get("target")}))  # fmt: skip
    inputs = {"anchor_on": "source", "weight": weights.get("source")}
    on_source = _with(anchored, objective=inputs, data={"source": {"unlabeled": resources.source_texts}})
    add("anchored on source inputs", Message("held near the source model on inputs of the old domain"),
        [None if old else no_source,
         None if resources.source_texts else Message("no inputs of the old domain (--source-texts)")],
        on_source)  # fmt: skip
    no_teacher = None if resources.teacher else Message("no teacher (--teacher)")
    taught = _with(base, method="distillation", reference=resources.teacher)
    if recipe.method == "distillation":
        taught = _with(taught, objective=written.get("objective", {}), generation=written.get("generation", {}))
    pooled = _with(taught, data={"unlabeled": resources.pool})
    if resources.pool is None:
        add("distilled", Message("held near the teacher on the labelled rows"), [no_teacher], taught)
        ruled_out["distilled with a pool"] = Message("no texts without labels (--pool)")
    else:
        add("distilled with a pool", Message("held near the teacher on labelled rows and on texts without labels"),
            [no_teacher], pooled)  # fmt: skip
        labels = _with(pooled, data={"unlabeled_as": "labels"}, objective={"weight": 0.0})
        add("pseudo-labels", Message("the teacher's choices as labels of the texts without any"), [no_teacher], labels)
    return arms, ruled_out


def plain_arm(recipe: Recipe) -> Arm:
    return Arm(PLAIN, Message("fine-tuning on the labelled rows alone"), _plain(recipe))


def columns_of(material: Material, splits: Sequence[str]) -> set[str]:
    """The columns of some splits' rows."""
    return {name for split in splits for row in material.rows[split] for name in row.fields}


def without_columns(values: dict[str, Any], columns: Collection[str]) -> None:
    """Takes clusters and slices that name none of the columns out of a recipe's values."""
    spec = values.get("evaluation", {})
    if spec.get("clusters") not in (None, *columns):
        del spec["clusters"]
    if spec.get("slices"):
        spec["slices"] = [name for name in spec["slices"] if name in columns] or None


def _without_lost_columns(values: dict[str, Any], recipe: Recipe) -> None:
    """Plain fine-tuning drops an old domain of other labels: what names a column of those rows alone goes with it."""
    source, spec = recipe.data.source, recipe.evaluation
    if (source.test or source.validation) and "source" not in values["data"] and (spec.clusters or spec.slices):
        columnless = _with(values)
        without_columns(columnless, ())
        without_columns(values, columns_of(prepare.prepare(from_dict(columnless, recipe.folder)), SCORED))


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain fine-tuning: what only another method reads is left out."""
    values = recipe.model_dump(by_alias=True, exclude_unset=True)
    for name in ("reference", "objective", "generation"):
        values.pop(name, None)
    if written := recipe.generation.model_fields_set - {"targets", "on_policy"}:
        values["generation"] = {name: getattr(recipe.generation, name) for name in sorted(written)}
    values["method"] = "fine-tuning"
    data = values["data"]
    for name in ("unlabeled", "unlabeled_as", "augment", "mix"):
        data.pop(name, None)
    source = {name: file for name, file in (data.pop("source", None) or {}).items() if name in ("validation", "test")}
    if source and recipe.objective.anchor_head == "task":  # else the old labels are others
        data["source"] = source
    training = values.setdefault("training", {})
    training.pop("l2_sp", None)
    training["interpolate"] = None
    return values


def _with(values: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A deep copy with changes merged in, mapping by mapping; a None is left out."""
    merged = copy.deepcopy(dict(values))
    for name, value in changes.items():
        if isinstance(value, Mapping):
            merged[name] = _with(merged.get(name) or {}, **value)
            if not merged[name]:
                merged.pop(name)
        elif value is not None:
            merged[name] = value
    return merged


def _refused(recipe: Recipe, values: dict[str, Any]) -> str | None:
    """Why a recipe cannot run: its first problem; None where it can."""
    try:
        prepare.prepare(from_dict(values, recipe.folder))
    except UserError as error:
        problem = next(p for p in error.problems if p.severity == "error")
        return Message(
            "{field}: found {found}, expected {expected}",
            field=problem.field, found=problem.found, expected=problem.expected,
        )  # fmt: skip
    return None
