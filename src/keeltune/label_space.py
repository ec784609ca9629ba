"""The labels of a run: their names, in the order of the model's outputs, and what each weighs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from keeltune import audit
from keeltune.data import Row
from keeltune.problems import Problem, nearest, shown
from keeltune.recipe import Recipe
from keeltune.tasks.task import Task


def labels_of(task_class: type[Task]) -> Callable[[Row], list[str]] | None:
    """How the audit finds a row's labels; None where they are the column `label`."""
    return None if any(c.name == "label" for c in task_class.columns) else task_class.labels_of


def label_names(
    recipe: Recipe, task_class: type[Task], rows: dict[str, list[Row]], head: list[str] | None
) -> tuple[list[str], list[Problem], list[str]]:
    """The label names of the run; without labelled training rows the teacher's, in the sense that the others show."""
    labelled = rows["train"] or [*rows["validation"], *rows["test"], *rows["source"]]
    if not labelled:
        return head or [], [], []
    names, problems, notices = audit.label_names(
        labelled,
        given=recipe.data.labels,
        head=head,
        multi_label=recipe.data.multi_label,
        labels_of=labels_of(task_class),
    )
    return names if names == head else task_class.closed(names), problems, notices


def class_weights_of(
    recipe: Recipe, task_class: type[Task], train: Sequence[Row], names: Sequence[str], problems: list[Problem]
) -> dict[str, float] | None:
    """Each label's weight: the recipe's, or for `balanced` rows / (labels × rows of the label), as in scikit-learn."""
    given = recipe.data.class_weights
    if given is None or not names:
        return None
    if given == "balanced":
        labels = Counter(label for row in train for label in task_class.labels_of(row))
        return {name: labels.total() / (len(names) * max(labels[name], 1)) for name in names}
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
