"""The sign that probabilities are no shares of right answers, and on which side they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.evaluation import calibration, overfitting
from keeltune.utils.messages import Message, joined


def miscalibration(measured: Mapping[str, Any]) -> overfitting.Signal:
    """The calibration error beyond what `calibration.of_lines` says that chance alone would make, and its side."""
    value = max(0.0, measured["ece"] - measured["ece_by_chance"])
    template = (
        "mean confidence {confidence:.3f}, {right:.3f} right; row by row they lie {error:.3f} apart (expected "
        "calibration error), {chance:.3f} by chance alone"
    )
    confidence, right = calibration.confidence_and_accuracy(measured)
    sentence = Message(
        template, confidence=confidence, right=right, error=measured["ece"], chance=measured["ece_by_chance"]
    )
    after = measured["ece_after"]
    if value > overfitting.MISCALIBRATED[0] and after is not None and after < measured["ece"] / 2:
        sentence = joined([sentence, Message("; temperature {t:.3g} would mend most of it", t=measured["temperature"])])
    meaning = SIDES[calibration.side(measured)]
    return overfitting.Signal(
        "calibration", overfitting.traffic_light(value, overfitting.MISCALIBRATED), value, sentence, meaning
    )


SIDES = {
    "over": "overconfident: its answers are less often right than its probabilities say",
    "under": "underconfident: its answers are more often right than its probabilities say",
    "both": "its probabilities are not shares of right answers: too high for some rows, too low for others",
}
"""What a red calibration means, by `calibration.side`."""
