"""BIO tags: B-X begins a span of the kind X, I-X goes on with it, O is outside of all spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OUTSIDE = "O"


def in_span(tag: str) -> bool:
    """Whether a tag is B-X or I-X."""
    return tag[:2] in ("B-", "I-") and len(tag) > 2


def legal_path(log_probs: np.ndarray, names: Sequence[str]) -> list[int]:
    """The tag sequence of the largest Σ log P among those in which I-X follows B-X or I-X; exact.

    Args: `log_probs` [n, C], n ≥ 1, in nats; `names` [C]. Returns n indices of `names`. Without a B-X, I-X is never
    reached. Source: Viterbi 1967; every other step is legal, so one maximum over all tags serves them all.
    """
    index = {name: i for i, name in enumerate(names)}
    inside = np.array([name.startswith("I-") for name in names])
    itself = np.arange(len(names))
    opening = np.array([index.get(f"B-{n[2:]}", i) if inside[i] else i for i, n in enumerate(names)])
    score = np.where(inside, -np.inf, log_probs[0])
    came_from = np.zeros((len(log_probs), len(names)), dtype=np.int64)
    for step in range(1, len(log_probs)):
        same_span = np.where(score[opening] >= score, opening, itself)
        came_from[step] = np.where(inside, same_span, score.argmax())
        score = score[came_from[step]] + log_probs[step]
    path = [int(score.argmax())]
    for step in range(len(log_probs) - 1, 0, -1):
        path.append(int(came_from[step][path[-1]]))
    return path[::-1]
