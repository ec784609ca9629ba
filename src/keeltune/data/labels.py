"""The labels of a run: their names, in the order of the model's outputs, and what each weighs."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from keeltune.data.columns import Schema
from keeltune.data.dataset import Row, place
from keeltune.data.look_alikes import look_alikes
from keeltune.data.row_labels import label_counts, row_labels, with_labels
from keeltune.data.row_problems import locations, warning_about
from keeltune.recipe.fields import Recipe
from keeltune.utils.errors import Problem, name_list, nearest, shown
from keeltune.utils.messages import Message
from keeltune.utils.names import plain_name

SIMILAR = 0.8
"""difflib's ratio from which a rare label counts as a misspelling of another."""


class Labelled(Schema, Protocol):
    """What labels ask of a task: whether it predicts labels, which a row uses, the inventory that names span."""

    choices: ClassVar[Literal["labels", "numbers", "tokens", "positions"]]

    @classmethod
    def labels_of(cls, row: Row) -> list[str]: ...

    @classmethod
    def label_inventory(cls, names: Sequence[str]) -> list[str]: ...


def labels_of(task_class: type[Labelled]) -> Callable[[Row], list[str]] | None:
    """How the audit finds a row's labels; None where they are the column `label`."""
    return None if any(c.name == "label" for c in task_class.columns) else task_class.labels_of


SOURCE_SPLITS = ("source", "source_validation")
"""The scored splits of the source domain, whose labels are the anchor head's where there is one."""


@dataclass(frozen=True)
class LabelChoice:
    """What was decided of a run's labels.

    names     the label names, in the order of the model's outputs; none where the task has none, or none was found
    head      the names of the head that was consulted, as it has them; None where it has none
    problems  errors and warnings of the labels as a whole (a row's own label is checked by `audit`)
    notices   what users should know
    """

    names: list[str]
    head: list[str] | None
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def new_head(self) -> bool:
        """Whether the head that was consulted does not have these names: the model then gets another."""
        return self.names != known_names(self.head, self.names)

    def split_groups(self, anchor_head: str, splits: Iterable[str]) -> list[tuple[list[str], list[str]]]:
        """(label names, splits that have them), the splits in their order.

        With an anchor head (`objective.anchor_head`) the scored splits of the source domain have the labels of that
        head: the source model's own (`source`), or none (`masked-lm`: those splits are in no group).
        """
        others = [name for name in splits if anchor_head == "task" or name not in SOURCE_SPLITS]
        groups = [(self.head or [], list(SOURCE_SPLITS))] if anchor_head == "source" else []
        return [*groups, (self.names, others)]


def decide_labels(
    recipe: Recipe,
    task_class: type[Labelled],
    rows: Mapping[str, Sequence[Row]],
    *,
    model_head: list[str] | None,
    teacher_head: Callable[[], list[str] | None],
) -> LabelChoice:
    """The labels of a run; the rule of the design in one place. Call it after `apply_label_map`.

    1. A trained head's own names where they cover the labels of the training rows (without labelled training rows: of
       the other labelled rows; without any: those names as they are). `LABEL_n` is no name; it stands for the number n
       where the data's labels are numbers. Rare labels that look like one of the head's names are taken for slips.
    2. Else `data.labels`.
    3. Else the names in the rows, sorted, whole numbers by value.
    Names of 2 and 3 are closed by the task (`Task.closed`): tagging completes B- and I-.

    model_head    the names of the head that the model has; None where it has none, or the model cannot be read
    teacher_head  gives those of the first reference; it is called where there are no training rows, and rules there
    """
    if task_class.choices != "labels":
        return LabelChoice([], None)
    head = model_head if rows["train"] else teacher_head() or model_head
    labelled = rows["train"] or [*rows["validation"], *rows["test"], *rows["source"]]
    if not labelled:
        return LabelChoice(head or [], head)
    names, problems, notices = names_of_data(
        labelled,
        listed=recipe.data.labels,
        head=head,
        multi_label=recipe.data.multi_label,
        labels_of=labels_of(task_class),
        field=next((column.name for column in task_class.columns if column.label), "label"),
    )
    return LabelChoice(names if names == head else task_class.label_inventory(names), head, problems, notices)


def known_names(head: list[str] | None, names: list[str]) -> list[str] | None:
    """A head's names; `LABEL_n` is no name, but where the data's labels are whole numbers it stands for n."""
    if head and all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        return [name.removeprefix("LABEL_") for name in head] if all(n.isdigit() for n in names) else None
    return head


def class_weights_of(
    recipe: Recipe, task_class: type[Labelled], train: Sequence[Row], names: Sequence[str], problems: list[Problem]
) -> dict[str, float] | None:
    """Each label's weight: the recipe's, or for `balanced` rows / (labels × rows of the label), as in scikit-learn."""
    spec = recipe.data.class_weights
    if spec is None or not names:
        return None
    if spec == "balanced":
        in_column = labels_of(task_class) is None
        labels = label_counts(train) if in_column else Counter(n for row in train for n in task_class.labels_of(row))
        return {name: labels.total() / (len(names) * max(labels[name], 1)) for name in names}
    weights = {plain_name(str(name)): weight for name, weight in spec.items()}
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


def names_of_data(
    rows: Sequence[Row],
    *,
    listed: Sequence[Any] | Mapping[Any, Any] | None,
    head: Sequence[str] | None,
    multi_label: bool,
    labels_of: Callable[[Row], Sequence[str]] | None = None,
    field: str = "label",
) -> tuple[list[str], list[Problem], list[str]]:
    """(names, problems, notices) of labelled rows, by the rule of `decide_labels`; `listed` is `data.labels`, `field`
    the column of the labels.

    Rows whose label is not among the names are found by `audit`, in every split alike.
    """
    in_column = labels_of is None
    counts = label_counts(rows) if labels_of is None else Counter(label for row in rows for label in labels_of(row))
    head_names = _head_names(head, counts)
    if head_names and (counts.keys() <= set(head_names) or (listed is None and _only_slips(counts, head_names))):
        return head_names, [], []
    notices = [_new_head(head_names, counts)] if head_names else []
    if listed is not None:
        # several names of the data may be one of the model, so only a list can name one twice
        names = [
            plain_name(str(name))
            for name in (dict.fromkeys(listed.values()) if isinstance(listed, Mapping) else listed)
        ]
        return list(dict.fromkeys(names)), _faulty_list(names, multi_label), notices
    if rows and not counts:
        fix = "add rows with labels, or name the column of the labels under data.columns"
        found = f"no label in any of {len(rows)} rows"
        return [], [Problem(place(rows, 0).file, "label", found, "labels to learn", fix, "no label")], notices
    warnings, named = look_alikes(rows, counts, labels_of or row_labels, field)
    if all(label.isdecimal() for label in counts):
        return sorted(counts, key=_by_value), warnings, notices
    if in_column:
        warnings += _misspellings(rows, counts, named)
    return sorted(counts), warnings, notices


def _by_value(label: str) -> tuple[int, str]:
    """Orders whole numbers by value, of however many digits."""
    digits = label.lstrip("0")
    return len(digits), digits


def _head_names(head: Sequence[str] | None, labels: Iterable[str]) -> list[str] | None:
    """A head's names as names of the data, or None where it has none to offer."""
    if not head or set(labels) <= set(head):
        return list(head) if head else None
    if all(re.fullmatch(r"LABEL_\d+", name) for name in head):
        numbers = [name.removeprefix("LABEL_") for name in head]
        return numbers if set(labels) <= set(numbers) else None
    return list(head)


def _only_slips(counts: Counter[str], head: Sequence[str]) -> bool:
    """Whether the labels that a head lacks are slips, rare and near its names, and not classes of their own."""
    lacking = [label for label in counts if label not in head]
    rare = sum(counts[label] for label in lacking) <= max(2, 0.01 * counts.total())
    return rare and all(_near(label, head) for label in lacking)


def _near(label: str, names: Iterable[str]) -> str:
    """The name of which `label` may be a misspelling, or nothing; numbers are never misspelt."""
    words = [name for name in names if not name.isdecimal()]
    return next(iter(difflib.get_close_matches(label, words, n=1, cutoff=SIMILAR)), "")


def _new_head(head: Sequence[str], counts: Counter[str]) -> str:
    lacking = [label for label in counts if label not in head]
    note = f"the model's labels ({name_list(head)}) lack {name_list(lacking)} of the training rows: it gets a new head"
    folded = {name.casefold(): name for name in head}
    if all(label.casefold() in folded for label in counts):
        pairs = ", ".join(f"{label}: {folded[label.casefold()]}" for label in sorted(counts))
        note += f"; to keep its head, say data.labels: {{{pairs}}}"
    return note


def _faulty_list(names: Sequence[str], multi_label: bool) -> list[Problem]:
    twice = [name for name, times in Counter(names).items() if times > 1]
    faults = [(f"more than once: {name_list(twice)}", "name each label once")] if twice else []
    if not all(name.strip() for name in names):
        faults.append(("an empty name", "give the label a name, or delete it"))
    if len(names) < (1 if multi_label else 2):
        faults.append((f"{len(names)} labels: {name_list(names)}", "list every label, or leave data.labels out"))
    expected = "names of labels, all different"
    return [Problem("", "data.labels", found, expected, fix, "label list") for found, fix in faults]


def _misspellings(rows: Sequence[Row], counts: Counter[str], named: Collection[str]) -> list[Problem]:
    """Rare labels that look like a frequent one: with no list to hold them against, each would become a class. Those
    that are `named` in a warning already are left out."""
    few = max(3, counts.total() // 1000)
    rare = [label for label in counts if counts[label] <= few and label not in named]
    template = '{label} in {n} rows, "{meant}" in {often}: {places}'
    expected = Message("each class under one name")
    fix = Message("correct it; or list all labels in data.labels, if it is a class of its own")
    warnings: list[Problem] = []
    for label, having in with_labels(rows, rare, row_labels, "label").items():
        meant = _near(label, [name for name, times in counts.items() if times >= 20 * counts[label]])
        if meant:
            values = {"label": shown(label), "n": having.count, "meant": meant, "often": counts[meant]}
            found = Message(template, **values, places=locations(having))
            warnings.append(warning_about(having, "label", found, expected, fix, "label perhaps misspelt"))
    return warnings
