"""The labels that a reference would overrule, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keeltune.evaluation import overruled_labels
from keeltune.utils.messages import Message, joined


def findings(veto: Mapping[str, Any] | None, *, taught: bool) -> list[str]:
    """What `veto` of `result.json` says; a warning where a source model wins too often against the new labels.

    `taught`: the reference is a teacher, who is meant to overrule labels.
    """
    if veto is None or not veto["contradicted"]:
        return []
    sentence = Message(
        "the reference would choose otherwise than {contradicted:.1%} of {predictions} labels; at weight {weight:.3g} "
        "it wins against {overruled:.1%} of them all",
        **{name: veto[name] for name in ("contradicted", "predictions", "weight", "overruled")},
    )
    if veto["confidence"] is not None:
        sentence = joined([sentence, Message(", those of which it is surer than {p:.4g}", p=veto["confidence"])])
    if veto["overruled"] < overruled_labels.WARNED or taught:
        return [sentence]
    fix = Message(
        "; with objective.weight: {weight} it would win against {share:.0%}",
        weight=_two_digits(veto["weight_kept"]),
        share=overruled_labels.TOLERATED,
    )
    return [joined([Message("warning: "), sentence, fix])]


def _two_digits(value: float) -> str:
    """Rounded down, so that the weight still keeps what it promises."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.floor(value * 10**digits) / 10**digits:g}"
