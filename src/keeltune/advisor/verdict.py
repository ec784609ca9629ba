"""Which arm is the best, how sure that is, and what would change it. Pure functions of the pilots' scores.

    U = (1 − w) · target + w · source,     on validation rows; w is what the old domain counts

An arm is compared with plain fine-tuning on the same draws of rows and the same seeds. It is recommended where
P(U > U of plain) ≥ 0.9; else the simplest arm within one standard error of the best is. P is a normal distribution's;
its variance holds the rows and seeds that were drawn, the luck of a single seed, and the steps that a pilot leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keeltune.evaluation import bootstrap
from keeltune.evaluation.seed_bootstrap import over_seeds
from keeltune.utils.messages import Message, joined

SURE = 0.9
"""P(better than plain) from which an arm is recommended for what it is."""

PAIRS = 2
"""Seeds without which nothing is sure: of one, its own luck is not known."""

LUCK = 0.01
"""The standard deviation of two arms' difference over seeds, as a share of the scale, where there is one seed alone.
Five paired seeds of small students: 0.5 to 1.5 points."""

SHORT = 0.03
"""How far a pilot's difference may lie from the whole training's, times the share of the steps that it leaves out."""


@dataclass(frozen=True)
class Scored:
    """One arm's pilots of one rung: draws [seeds][resamples] of its score in each domain, more being better, and the
    values [seeds] themselves; `source` is None where no old domain is named."""

    target: list[np.ndarray]
    source: list[np.ndarray] | None
    targets: list[float]
    sources: list[float] | None
    drops: list[np.ndarray] | None = None

    def draws(self, weight: float) -> list[np.ndarray]:
        if self.source is None:
            return self.target
        return [(1 - weight) * t + weight * s for t, s in zip(self.target, self.source, strict=True)]

    def value(self, weight: float) -> float:
        target = float(np.mean(self.targets))
        return target if self.sources is None else (1 - weight) * target + weight * float(np.mean(self.sources))

    def drop_bound(self) -> float | None:
        """The one-sided 90 % bound of how far the source score fell since before training."""
        return None if self.drops is None else float(np.percentile(over_seeds(self.drops), 90.0))


def compared(arm: Scored, plain: Scored, weight: float, share: float = 1.0) -> dict[str, Any]:
    """{"gain", "interval", "se", "p_better"} of an arm against plain, rows and seeds drawn together for both.

    The interval is that of the draws alone; `se` and P(better) hold what they do not show: the luck of one seed, and
    that a pilot has a `share` of the steps.
    """
    pairs = zip(arm.draws(weight), plain.draws(weight), strict=True)
    resampled = over_seeds([of_arm - of_plain for of_arm, of_plain in pairs])
    gain = arm.value(weight) - plain.value(weight)
    luck = LUCK if len(arm.targets) < PAIRS else 0.0
    se = math.hypot(float(resampled.std()), luck, SHORT * (1 - share))
    return {"gain": gain, "interval": list(bootstrap.interval(resampled)), "se": se, "p_better": _above_zero(gain, se)}


def _above_zero(mean: float, sd: float) -> float:
    """P(x > 0) of a normal distribution; half of a tie."""
    if sd == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    return 0.5 * (1 + math.erf(mean / (sd * math.sqrt(2))))


def ranked(
    scored: Mapping[str, Scored], plain: str, weight: float, max_drop: float | None, share: float = 1.0
) -> list[dict[str, Any]]:
    """Each arm with its utility and its comparison with plain, the best first; those beyond `max_drop` at the end."""
    lines = []
    for name, one in scored.items():
        bound = one.drop_bound()
        within = max_drop is None or bound is None or bound <= max_drop
        line = {
            "arm": name,
            "utility": one.value(weight),
            "target": float(np.mean(one.targets)),
            "target_interval": list(bootstrap.interval(over_seeds(one.target))),
            "source": None if one.sources is None else float(np.mean(one.sources)),
            "source_interval": None if one.source is None else list(bootstrap.interval(over_seeds(one.source))),
            "source_drop_bound": bound,
            "within": within,
            "seeds": len(one.targets),
            "against_plain": None if name == plain else compared(one, scored[plain], weight, share),
        }
        lines.append(line)
    return sorted(lines, key=lambda line: (not line["within"], -line["utility"]))


def decided(lines: Sequence[Mapping[str, Any]], order: Sequence[str], plain: str) -> dict[str, Any]:
    """{"arm", "p_better", "sure", "reason"}; `order` names the arms from the simplest on."""
    allowed = [line for line in lines if line["within"]] or list(lines)
    best = allowed[0]
    chances = [line["against_plain"]["p_better"] for line in allowed if line["against_plain"]]
    several = best["seeds"] >= PAIRS
    if not chances:
        return {"arm": best["arm"], "p_better": None, "sure": False, "reason": Message("nothing was compared with it")}
    if best["arm"] == plain:
        p = max(chances)
        template = "no arm did better than plain fine-tuning; the nearest is better with probability {p:.2f}"
        reason = Message(template, p=p)
        return {"arm": plain, "p_better": None, "sure": several and p <= 1 - SURE, "reason": reason}
    against = best["against_plain"]
    if against is None:  # plain is beyond the budget of forgetting, and was not compared
        reason = Message("the best of what keeps the old domain")
        return {"arm": best["arm"], "p_better": None, "sure": False, "reason": reason}
    p = against["p_better"]
    if p >= SURE:
        template = "better than plain with probability {p:.2f}"
        if not several:
            template = "better than plain with probability {p:.2f}, of one seed"
        return {"arm": best["arm"], "p_better": p, "sure": several, "reason": Message(template, p=p)}
    near = [line for line in allowed if best["utility"] - line["utility"] <= against["se"]]
    plain_out = not any(line["arm"] == plain for line in allowed)
    simplest = min(near, key=lambda line: order.index(line["arm"]))
    template = "the simplest arm within one standard error of the best ({arm}, P(better than plain) {p:.2f})"
    reason = Message(template, arm=Message(best["arm"]), p=p)
    if plain_out:
        reason = joined([reason, Message("; plain fine-tuning loses too much of the old domain")])
    against_plain = simplest["against_plain"]
    return {
        "arm": simplest["arm"],
        "p_better": against_plain and against_plain["p_better"],
        "sure": False,
        "reason": reason,
    }


def turning_points(lines: Sequence[Mapping[str, Any]], chosen: str, weight: float) -> list[tuple[str, float]]:
    """Other arms, each with the weight of the old domain at which it would do as well as the chosen one.

    (1 − w) ΔT + w ΔS = 0 at w = ΔT / (ΔT − ΔS), Δ the chosen arm's score minus the other's; those of 0 < w < 1.
    """
    chosen_line = next(line for line in lines if line["arm"] == chosen)
    points = []
    for other in (line for line in lines if line["arm"] != chosen):
        if chosen_line["source"] is None or other["source"] is None:
            continue
        target, source = chosen_line["target"] - other["target"], chosen_line["source"] - other["source"]
        if target * source < 0:
            turning = target / (target - source)
            gains = turning > weight if source < 0 else turning < weight
            if gains:
                points.append((str(other["arm"]), turning))
    return points
