"""Whether a model that says numbers says more than their mean: what the labels' frequencies are to classes.

R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)²        0: as good as always the mean
"""

from __future__ import annotations

from keeltune.evaluation.overfitting import LEARNT, LEARNT_NOTHING, LONG_ENOUGH, Light, Signal
from keeltune.utils.messages import Message, joined


def beyond_the_mean(train: float, validation: float, low: float, steps: int) -> list[Signal]:
    """The signs "learnt" (training rows) and "beyond chance" (others).

    Args: `train`, `validation`: R² there; `low`: validation's lower 95 % bound; `steps`: of the training.
    """
    failed: Light = "red" if steps >= LONG_ENOUGH else "amber"
    said = Message("R² {train:.4g} on training rows; always their mean gives 0", train=train)
    learnt = Signal("learnt", failed if 1 - train > LEARNT_NOTHING else "green", 1 - train, said)
    by_heart = train > LEARNT and validation < LEARNT / 3
    light: Light = "green" if low > 0 else "red" if by_heart else "amber"
    said = Message(
        "validation R² {value:.4g} (from {low:.4g}); always the mean gives 0",
        value=validation, low=low,
    )  # fmt: skip
    if light == "red":
        asked = Message("; yet training rows were learnt: do numbers and rows belong together?")
        said = joined([said, asked])
    return [learnt, Signal("beyond chance", light, validation, said)]
