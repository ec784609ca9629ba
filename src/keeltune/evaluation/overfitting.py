"""Signs that a model has learnt its rows by heart, has learnt nothing, or is judged on rows that it has seen.

Each is a pure function of numbers that a run has anyway, and gives a `Signal` with a traffic light. The thresholds are
conventions, not laws: they are here, in one place, and the values stand beside the lights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keeltune.evaluation.duplicates import duplicates
from keeltune.tasks.metrics import scale_of
from keeltune.utils.messages import Message, joined

Light = Literal["green", "amber", "red"]

GAP = (0.05, 0.10)
"""Training score − validation score, of scores from 0 to 1."""

FELL = 0.01
"""How far the last validation score must lie below the best one, as a share of the whole, to have fallen."""

RISES = 3
"""Evaluations after the lowest validation loss from which a rise counts."""

SURE = 0.9
"""The probability from which an answer is a confident one."""

SURE_ERRORS = (2.0, 4.0)
"""Standard errors by which confident answers are wrong more often than their probabilities say."""

ENOUGH_SURE = 20
"""Confident answers below which their errors say little."""

MISCALIBRATED = (0.05, 0.10)
"""Expected calibration error."""

COLLAPSED, EXPLODED = 1e-2, 10.0
"""A gradient norm beside the median of the run's first half."""

LEARNT_NOTHING = 0.98
"""Cross-entropy as a share of the labels' entropy, above which nothing was learnt."""

LONG_ENOUGH = 100
"""Steps after which a training that has learnt nothing has failed; a shorter one may not have got there yet."""

LEARNT = 0.3
"""The share of the labels' entropy above which training rows count as learnt."""

SHARED = (0.0, 0.05)
"""The share of validation rows that are training rows too, or nearly."""

SPREAD = (0.01, 0.03)
"""The standard deviation of scores over seeds."""

MOVED = 0.5
"""Nats a prediction from the reference on the target's inputs."""


@dataclass(frozen=True)
class Signal:
    """One sign: its light, the value that it hangs on, and a sentence."""

    name: str
    light: Light
    value: float
    said: str
    meaning: str = ""
    """What it means where it is red, if not what `VERDICTS` says of its name."""

    @property
    def reported(self) -> dict[str, Any]:
        """As `result.json` has it."""
        return {name: getattr(self, name) for name in ("name", "light", "value", "said")}


def traffic_light(value: float, thresholds: tuple[float, float]) -> Light:
    """Green up to the first threshold, amber up to the second, red above it."""
    return "red" if value > thresholds[1] else "amber" if value > thresholds[0] else "green"


def gap(train: float, validation: float, metric: str, sign: float, *, fell: float) -> Signal | None:
    """How much better the rows that were learnt are answered; red only where validation also fell from its best.

    `sign` is −1 for a metric of which less is better; scores are taken as shares of `scale_of`, a loss has no gap.
    `fell`: how far the last validation score lies below the best one, in the metric's unit.
    """
    scale = scale_of(metric)
    if scale is None:
        return None
    value = sign * (train - validation) / scale
    light = traffic_light(value, GAP)
    light = "amber" if light == "red" and fell <= FELL * scale else light
    sentence = Message(
        "{metric} {train:.4g} on training rows, {validation:.4g} on validation rows",
        metric=metric, train=train, validation=validation,
    )  # fmt: skip
    return Signal("gap", light, value, sentence)


def rising(losses: Sequence[float], scores: Sequence[float], sign: float) -> Signal | None:
    """Validation loss after its lowest point: amber after `RISES` evaluations above it, red if the metric fell too.

    A loss that rises while the metric holds is overconfidence, which a temperature corrects.
    """
    if len(losses) < 2:
        return None
    lowest = int(np.argmin(losses))
    since = len(losses) - 1 - lowest
    value = losses[-1] - losses[lowest]
    rose = since >= RISES and value > 0
    worse = sign * scores[-1] < sign * max(scores, key=lambda score: sign * score)
    sentence = Message(
        "the validation loss was lowest ({low:.4g}) at evaluation {at} of {all}",
        low=losses[lowest], at=lowest + 1, all=len(losses),
    )  # fmt: skip
    sentence = joined([sentence, Message(", and ended at {last:.4g}", last=losses[-1])]) if since else sentence
    return Signal("validation loss", "red" if rose and worse else "amber" if rose else "green", value, sentence)


def confident_errors(lines: Sequence[Mapping[str, Any]]) -> Signal | None:
    """Whether answers given more than `SURE` are wrong more often than their probabilities say.

    (wrong − Σ (1 − p)) / √(Σ p (1 − p)) over those answers; None where they are few. Of one choice a row alone.
    """
    single = [line for line in lines if "probabilities" in line and isinstance(line["prediction"], str)]
    sure = [(max(line["probabilities"].values()), line["score"]) for line in single]
    sure = [(p, score) for p, score in sure if p > SURE]
    if len(sure) < ENOUGH_SURE:
        return None
    wrong, expected = sum(score < 1 for _, score in sure), sum(1 - p for p, _ in sure)
    error = math.sqrt(sum(p * (1 - p) for p, _ in sure))
    value = (wrong - expected) / max(error, 1e-6) if wrong > expected + 1 else 0.0
    template = "of {sure} answers given more than {limit:g} {wrong} are wrong, where {expected:.1f} are to be expected"
    sentence = Message(template, sure=len(sure), limit=SURE, wrong=wrong, expected=expected)
    return Signal("confident errors", traffic_light(value, SURE_ERRORS), value, sentence)


def gradients(norms: Sequence[float]) -> Signal | None:
    """The last gradient norms beside those of the run's first half: vanished, or exploded."""
    known = [norm for norm in norms if math.isfinite(norm)]
    if len(known) < 4:
        return None
    early = float(np.median(known[: len(known) // 2]))
    late, highest = float(np.median(known[-3:])), max(known)
    value = late / early if early else 1.0
    if value < COLLAPSED:
        sentence = Message("gradients fell from {early:.3g} to {late:.3g}", early=early, late=late)
        return Signal("gradient norm", "amber", value, sentence)
    if highest > EXPLODED * early:
        sentence = Message("a gradient of norm {high:.3g} where {early:.3g} is usual", high=highest, early=early)
        return Signal("gradient norm", "amber", value, sentence)
    sentence = Message("gradients of norm {early:.3g} at first, {late:.3g} at the end", early=early, late=late)
    return Signal("gradient norm", "green", value, sentence)


def nothing_learnt(cross_entropy: float, labels: Mapping[str, int], steps: int) -> Signal | None:
    """Whether the training's last cross-entropy is still that of the labels' frequencies; amber after few steps.

        H = −Σ_c f_c log f_c ≤ log C

    Such runs have failed, most often by gradients that vanished (Mosbach et al. 2020, https://arxiv.org/abs/2006.04884).
    """
    entropy = entropy_of(labels)
    if entropy <= 0:
        return None
    value = cross_entropy / entropy
    sentence = Message(
        "cross-entropy {ce:.4g} nats on training rows; the labels' frequencies alone give {entropy:.4g}",
        ce=cross_entropy, entropy=entropy,
    )  # fmt: skip
    failed: Light = "red" if steps >= LONG_ENOUGH else "amber"
    return Signal("learnt", failed if value > LEARNT_NOTHING else "green", value, sentence)


def entropy_of(labels: Mapping[str, int]) -> float:
    """H = −Σ_c f_c log f_c of labels that are there so often, in nats."""
    total = sum(labels.values())
    return -sum(n / total * math.log(n / total) for n in labels.values() if n) if total else 0.0


def by_chance(validation: float, low: float, chance: float, explained: float, metric: str) -> Signal:
    """Whether validation is no better than always the commonest label, though the training rows were learnt.

    Labels that were shuffled look like that, or validation rows of another kind. `low`: validation's lower 95 % bound.
    `explained`: the share of the labels' entropy that training took away, 1 − CE / H, of the last steps.
    """
    value = validation - chance
    near = value < GAP[0]
    light: Light = "green" if low > chance else "red" if explained > LEARNT and near else "amber"
    sentence = Message(
        "validation {metric} {value:.4g} (from {low:.4g}); always the commonest label gives {chance:.4g}",
        metric=metric, value=validation, low=low, chance=chance,
    )  # fmt: skip
    if light == "red":
        template = (
            "; yet {explained:.0%} of the training labels' entropy was learnt: do labels and rows belong together?"
        )
        sentence = joined([sentence, Message(template, explained=explained)])
    return Signal("beyond chance", light, value, sentence)


def shared(validation: Sequence[Mapping[str, str]], train: Sequence[Mapping[str, str]]) -> Signal | None:
    """The share of validation rows, {column: text}, that are a training row too, word for word or nearly."""
    if not validation:
        return None
    copies, nearly = duplicates(validation, train)
    value = (copies + nearly) / len(validation)
    sentence = Message(
        "{copies} of {rows} validation rows are training rows too, and {nearly} nearly",
        copies=copies, rows=len(validation), nearly=nearly,
    )  # fmt: skip
    if value > SHARED[1]:
        sentence = joined([sentence, Message(": the validation score flatters by rows learnt by heart")])
    return Signal("duplicates", traffic_light(value, SHARED), value, sentence)


def drift(divergence: float) -> Signal:
    """How far the model is from its reference on the target's inputs."""
    template = "{moved:.3g} nats a prediction from the model before training, on the target's inputs"
    sentence = Message(template, moved=divergence)
    return Signal("drift", "amber" if divergence > MOVED else "green", divergence, sentence)


def spread(scores: Sequence[float], metric: str) -> Signal | None:
    """The standard deviation over seeds; None of a loss."""
    scale = scale_of(metric)
    if scale is None:
        return None
    value = float(np.std(scores, ddof=1)) / scale
    sentence = Message(
        "{metric} over {seeds} seeds: standard deviation {value:.3g}, from {low:.4g} to {high:.4g}",
        metric=metric, seeds=len(scores), value=value, low=min(scores), high=max(scores),
    )  # fmt: skip
    return Signal("seeds", traffic_light(value, SPREAD), value, sentence)


VERDICTS = {
    "learnt": "nothing was learnt",
    "undertrained": "undertrained: the training ended before the model had learnt its rows",
    "duplicates": "validation rows were trained on: their score flatters",
    "beyond chance": "the rows were learnt by heart, and nothing that holds for others",
    "validation loss": "overfitted: the last weights are worse than earlier ones",
    "gap": "overfitted: training rows are answered much better than others",
    "confident errors": "overconfident",
    "calibration": "its probabilities are not shares of right answers",
    "seeds": "seeds differ much: one run says little",
}
"""What a red light means; the first that is red names the verdict."""


def verdict(signals: Sequence[Signal]) -> str:
    """The run in a few words."""
    red = {signal.name: signal for signal in signals if signal.light == "red"}
    for name, meaning in VERDICTS.items():
        if name in red:
            return Message(red[name].meaning or meaning)
    if any(signal.name == "undertrained" and signal.light == "amber" for signal in signals):
        return Message("perhaps undertrained: longer training may do better")
    amber = [Message(signal.name) for signal in signals if signal.light != "green"]
    if amber:
        return Message("no sign of overfitting; to look at: {names}", names=joined(amber, ", "))
    return Message("no sign of overfitting")


def report(signals: Sequence[Signal | None]) -> dict[str, Any]:
    """What `result.json` holds as `overfitting`: {"verdict", "signals": [{"name", "light", "value", "said"}]}."""
    known = [signal for signal in signals if signal is not None]
    if any(signal.name == "undertrained" and signal.light != "green" for signal in known):  # it has not, then
        known = [signal for signal in known if (signal.name, signal.light) != ("learnt", "green")]
    return {"verdict": verdict(known), "signals": [signal.reported for signal in known]}


def stuck(result: Mapping[str, Any]) -> str | None:
    """Why a finished run is a failed one, whose seed should be replaced; None where it is not."""
    for signal in (result.get("overfitting") or {}).get("signals", ()):
        if signal["name"] == "learnt" and signal["light"] == "red":
            return str(signal["said"])
    return None


def commonest(labels: Sequence[str]) -> tuple[dict[str, int], float]:
    """How often each label is there, and the share of the commonest."""
    counts = Counter(labels)
    return dict(counts), (max(counts.values()) / len(labels) if labels else 0.0)
