"""The regularisers of one run, together: found, held against the task, and what they add to a step's loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from keeltune.objective import host_counts
from keeltune.objective.predictions import Rows, slices
from keeltune.recipe.field_types import expectation
from keeltune.recipe.fields import Recipe
from keeltune.recipe.regularizer_fields import find_regularizer
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Regularizer
from keeltune.utils.errors import Problem, UserError, shown


def regularizers_of(recipe: Recipe) -> list[Regularizer]:
    """Those that are on, in the order in which they are called. UserError where one from outside cannot be had."""
    pairs = list(_regularizers(recipe))
    problems = [found for found in pairs if isinstance(found, Problem)]
    if problems:
        raise UserError(problems)
    return [found for found in pairs if isinstance(found, Regularizer)]


def regularizer_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """Regularisers that have no meaning for this task or this model, or that cannot be had. No weights."""
    problems = []
    for found in _regularizers(recipe):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        field = recipe.training.regularizer_field(found.name)
        for refusal in found.refused(recipe, task):
            problem = recipe.problem(field, expected=refusal.expected, fix=refusal.fix, found=refusal.found)
            problems.append(problem)
    return problems


def _regularizers(recipe: Recipe) -> Iterator[Regularizer | Problem]:
    """Each that is on, or why it cannot be had; the values of those of the shelf are checked with the recipe."""
    for name, value in recipe.training.all_regularizers.items():
        field = recipe.training.regularizer_field(name)
        try:
            kind = find_regularizer(name)
        except LookupError as error:
            fix = "correct the name, or start the command where the module can be imported"
            yield recipe.problem(field, found=shown(name), expected=str(error), fix=fix)
            continue
        if ":" in name:
            try:
                value = TypeAdapter(kind.parameter).validate_python(value, strict=True)
            except ValidationError as error:
                expected = " or ".join(dict.fromkeys(map(expectation, error.errors())))
                yield recipe.problem(field, expected=expected, fix=f"change it ({name}: {kind.description})")
                continue
        regularizer = kind(value)
        regularizer.name = name
        yield regularizer


def forward_passes(regularizers: Sequence[Regularizer]) -> int:
    """Forward passes of a micro-batch that the loss is a mean of."""
    return max([1, *(r.passes for r in regularizers)])


def labelled_terms(
    regularizers: Sequence[Regularizer], passes: Sequence[Rows], batch: Mapping[str, Any]
) -> Tensor | None:
    """Σ w · (the terms of all regularisers) over labelled predictions: a scalar in nats, or None where none has one.

    `passes` hold the same N predictions each; the batch's `targets` and `weights` [N] as in cross-entropy, since n_CE
    is the sum of the weights. A slice is read again in the backward pass, so that [N, C] need not exist at once.
    """
    terms = [r for r in regularizers if 0 < r.passes <= len(passes)]
    if not terms:
        return None

    labelled = host_counts.labelled(batch)

    def of_slice(part: slice) -> Tensor:
        targets, weights = (labelled.pick(batch[name][part], part) for name in ("targets", "weights"))
        log_probs = [labelled.pick(rows.log_probs(part), part) for rows in passes]
        values = [term.on_labelled(log_probs, targets) for term in terms]
        return (torch.stack(values).sum(0) * weights).sum()

    sums: list[Tensor] = [checkpoint(of_slice, part, use_reentrant=False) for part in slices(passes[0])]
    return torch.stack(sums).sum()
