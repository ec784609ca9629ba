"""Whether two models choose among the same tokens: by their tokenizers' bytes, never by the size of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keeltune.data.dataset import Row
from keeltune.models import tokenizer_match
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.utils.errors import Problem, shown


def other_tokens(where: str, source: str, relation: tokenizer_match.Relation, starts: Sequence[Any]) -> Problem | None:
    """Why a reference cannot say what the student's next token should be.

    `starts`: the token from which the student's decoder starts, and the reference's; None for a decoder alone.
    """
    fix = (
        "take a reference of the same family; or let it write the targets, which needs texts alone (generation: "
        "{targets: reference}, objective: {weight: 0}); or a task whose predictions are classes, which any tokenizer "
        "may read"
    )
    if relation.kind == "different":
        first = relation.differing[:5]
        pairs = "; ".join(
            f"{i}: {reference or 'none'}, the student's {student or 'none'}" for i, student, reference in first
        )
        found = f"{shown(source)}, whose tokenizer has other tokens at the ids {', '.join(str(i) for i, _, _ in first)}"
        more = f"; {len(relation.differing)} ids differ" if len(relation.differing) > len(first) else ""
        expected = "the student's tokenizer: the same bytes for every id"
        return Problem(where, "reference", f"{found} ({pairs}{more})", expected, fix)
    student, reference = starts
    if student != reference:
        found = f"{shown(source)}, whose decoder starts from token {reference}"
        return Problem(where, "reference", found, f"the student's start {student}", fix)
    return None


def other_count(where: str, source: str, student: Task, reference: Task, probes: Sequence[Row]) -> Problem | None:
    """Why a reference has other predictions in a row than the student: other frames."""
    for row in probes[:20]:
        counts = [sum(e.predictions for e in task.encode(row, labelled=False)) for task in (student, reference)]
        if counts[0] != counts[1]:
            found = f"{shown(source)}, which makes {counts[1]} predictions of {row.file}:{row.line}"
            expected = f"the student's {counts[0]}: a prediction for each frame of it"
            fix = "take a reference of the same kind, with the same convolutions before its encoder"
            return Problem(where, "reference", found, expected, fix)
    return None


def unreadable(recipe: Recipe, source: str, sizes: Sequence[int | None]) -> Problem:
    """The student samples token ids of its own, and the reference must read those very ids."""
    return Problem(
        recipe.where("generation"),
        "generation.on_policy",
        f"{shown(source)}, which reads texts in its own encoding, or knows fewer ids ({sizes[1]}) than the student "
        f"({sizes[0]})",
        "a reference that reads every id that the student may draw, just as the student reads it",
        "leave on_policy out, or take a reference with the student's tokenizer and at least its rows and max_length",
    )


def shared_tokens(
    source: str, relation: tokenizer_match.Relation, sizes: Sequence[int | None]
) -> tuple[Sequence[int] | None, str]:
    """The ids on which reference and student are compared, None for all, and what users should know of it.

    `sizes`: V of the student and of the reference.
    """
    if relation.kind == "same":
        return None, ""
    rest = "the rest belong to no token" if relation.kind == "padded" else "the other has no token for the rest"
    return relation.shared, (
        f"{shown(source)} shares {len(relation.shared)} tokens with the student, of its {sizes[1]} choices and the "
        f"student's {sizes[0]} ({rest}); the divergence is taken over these, both sides renormalised"
    )
