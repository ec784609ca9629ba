"""What a reader of a model card must know before the model is used: in words, and without a word of the data.

Groups and words that stand out are counted and their column is named; which ones they are is said in the run's report,
which stays with the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from keeltune.reports.findings import bias as bias_findings
from keeltune.tasks.metrics import scale_of

MISCALIBRATED = 0.05
"""The expected calibration error from which probabilities are said to be wrong."""


def limits(result: Mapping[str, Any], *, reads: int | None, writes: bool) -> list[str]:
    """Sentences; `reads`: the most tokens that it was trained to read."""
    return [
        *_verdict(result),
        *_forgetting(result),
        *_bias(result.get("bias")),
        *_calibration(result.get("calibration")),
        *([f"Inputs were read up to {reads} tokens; what lies behind them was cut."] if reads else []),
        *(["What it writes may be fluent and wrong: check it before it is used."] if writes else []),
        "The scores hold for rows like those that it was scored on, and say nothing of other sources or times.",
    ]


def _verdict(result: Mapping[str, Any]) -> Iterator[str]:
    report = result.get("overfitting")
    if report:
        yield f"The verdict on its training: {report['verdict']}."


def _forgetting(result: Mapping[str, Any]) -> Iterator[str]:
    report = result.get("forgetting") or {}
    measured = [report[name] for name in ("source", "control") if report.get(name)]
    measured += list((result.get("abilities") or {}).values())
    if not measured:
        yield "What it knew before and has forgotten was not measured: no rows of an older domain were given."
        return
    for number, change in enumerate(measured, 1):
        scores = change["metrics"][change["metric"]]
        where = "the older domain" if number == 1 else f"set {number} of older rows"
        interval = scores.get("interval")
        range_ = f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if interval else ""
        yield (
            f"On {where} its {change['metric']} went from {scores['before']:.4f} to {scores['after']:.4f}, "
            f"a change of {scores['change']:+.4f}{range_}."
        )


def _bias(bias: Mapping[str, Any] | None) -> Iterator[str]:
    if not bias:
        yield "Whether it serves groups of people or of texts differently was not measured."
        return
    scale, said = scale_of(bias["metric"]), False
    for column, groups in bias["slices"].items():
        gap = groups["gap"]
        if scale is not None and gap is not None and gap > bias_findings.WIDE_GAP * scale:
            said = True
            where = f"the best and the worst group of the column {column}"
            yield f"Between {where} its {bias['metric']} differs by {gap:.3f}."
    flips = bias["counterfactual"]
    if flips and flips["interval"][0] > bias_findings.FLIPS:
        said = True
        yield f"{flips['flip_rate']:.1%} of its answers change where a term for people stands for another."
    words = sum(1 for sentence in bias_findings.findings({"bias": {**bias, "slices": {}, "counterfactual": None}}))
    if words:
        said = True
        yield f"Its answers hang on single words: {words} were found whose presence alone decides."
    if not said:
        yield "Among the groups that its rows tell apart, none is served clearly worse."


def _calibration(calibration: Mapping[str, Any] | None) -> Iterator[str]:
    measured = next((m for s in ("test", "validation") if (m := (calibration or {}).get(s))), None)
    if measured is None:
        return
    ece = measured["ece"]
    if ece < MISCALIBRATED:
        yield f"Its probabilities can be taken as they are: expected calibration error {ece:.3f}."
        return
    temperature = (calibration or {}).get("validation", {}) or {}
    value = temperature.get("temperature")
    mended = f" Dividing its logits by {value:.3g} mends most of it." if value is not None else ""
    side = _side(measured)
    yield f"Its probabilities are {side}: expected calibration error {ece:.3f}.{mended}"


def _side(measured: Mapping[str, Any]) -> str:
    """Whether it is surer than it is right, or less sure, over all its answers."""
    bins = measured["bins"]
    total = sum(count for *_, count in bins)
    gap = sum((confidence - accuracy) * count for confidence, accuracy, count in bins) / total if total else 0.0
    return "overconfident" if gap > 0 else "underconfident"
