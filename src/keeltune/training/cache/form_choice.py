"""In which form a reference's answers are cached: the one that is requested, or the one that measured sizes choose."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from keeltune.objective.predictions import Projected
from keeltune.objective.stored_predictions import Full, Hidden, StoredForm, TopK
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.example import Example
from keeltune.training.cache.identity import CacheRequest
from keeltune.training.cache.shards import BATCH, AnswerSource, answers, shard_of, spread
from keeltune.training.cache.stored_head import Head
from keeltune.training.preparation.material import Material
from keeltune.utils.errors import Problem, UserError

MASS = 0.99
"""The share of the probability that k choices must hold on a sample, or the head's input is kept instead."""

SAMPLE = 64
"""Examples on which forms and costs are measured."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def choose_form(request: CacheRequest, material: Material, source: AnswerSource) -> tuple[StoredForm, str, Head | None]:
    """The form that is requested, or the one that the measured sizes choose, with the reason; and the head to keep."""
    name, choices = request.form["form"], source.choices
    dtype = DTYPES.get(request.form["dtype"])
    if name == "full":
        full = Full(dtype or torch.float32)
        return full, f"full: {choices} choices, {full.bytes_each(choices):.0f} bytes a prediction", None
    sample = spread(request.examples, SAMPLE)
    if name == "hidden":
        hidden, head = hidden_form(sample, source, dtype)
        if hidden is None or head is None:
            raise no_head(material)
        return hidden, f"hidden: {hidden.bytes_each(choices):.0f} bytes a prediction and the head", head
    k = min(request.form["k"], choices)
    top = TopK(k, request.form["temperature"], dtype or torch.float16)
    size = top.bytes_each(choices)
    if name == "top-k":
        return top, f"top-k, k = {k}: {size:.0f} bytes a prediction", None
    _, facts = shard_of(sample, request.contents, source, top)
    mass = facts["mass"] / max(1, facts["predictions"])
    measured = f"{k} of {choices} choices hold {mass:.1%} of the probability on {len(sample)} examples"
    usable = material.recipe.objective.divergence_name != "logit-mse"
    if mass >= MASS and usable:
        return top, f"top-k, k = {k}: {size:.0f} bytes a prediction; {measured}", None
    hidden, head = hidden_form(sample, source, None)
    if hidden is not None and head is not None:
        return hidden, f"hidden: {hidden.bytes_each(choices):.0f} bytes a prediction, as {measured}", head
    if not usable:
        raise no_head(material)
    reason = f"top-k, k = {k}: {size:.0f} bytes a prediction; {measured}, and the head's input cannot be kept"
    return top, reason, None


def no_head(material: Material) -> UserError:
    found, expected = "a reference whose vocabulary head cannot be kept apart", "one that ends with a linear head"
    where = material.recipe.where("reference")
    return UserError(Problem(where, "reference.form", found, expected, "write form: top-k, or from: online"))


def hidden_form(
    sample: Sequence[Example], source: AnswerSource, dtype: torch.dtype | None
) -> tuple[Hidden | None, Head | None]:
    """The form `hidden` for this reference and its head; None where the head cannot be kept apart."""
    form = Hidden(0, dtype or torch.float32)
    rows = answers(sample[:BATCH], source, form)
    if not isinstance(rows, Projected) or not isinstance(rows.head, lm_head.AppliedHead):
        return None, None
    head = Head.of(rows.head)
    if head is None:
        return None, None
    compared, applied = slice(0, 64), rows.head
    within = nullcontext() if applied.dtype is None else torch.autocast(applied.kind, dtype=applied.dtype)
    with within:  # the head that is kept multiplies as its model did
        logits = head(rows.hidden[compared])
    if not torch.allclose(logits.float().log_softmax(-1), rows.log_probs(compared), atol=1e-4):
        return None, None
    stored = dtype or rows.hidden.dtype
    return Hidden(rows.hidden.shape[-1], stored if stored in DTYPES.values() else torch.float32), head
