"""How far two domains lie apart, as a linear classifier sees it that must tell their rows apart.

    proxy A-distance = 2 · (1 − 2ε)      ε its error on rows that it has not seen: 0 where it guesses, 2 with no error

Source: Ben-David et al. 2010, A theory of learning from different domains; Kashyap et al. 2021,
https://arxiv.org/abs/2010.12198, who find words a strong baseline. It says how large the shift is, not what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keeltune.utils.text import apart

FOLDS = 5

LEAST = 20
"""Rows of each domain below which nothing is measured."""


def words(source: Sequence[str], target: Sequence[str]) -> float | None:
    """The distance of two lists of texts, by their words and pairs of words (Chinese: characters). None of too few."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    texts = np.array([apart(text) for text in (*source, *target)], dtype=object)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+")
    return _distance(make_pipeline(vectorizer, _classifier(10.0)), texts, len(source))


def features(source: np.ndarray, target: np.ndarray) -> float | None:
    """The distance of two tables of features [rows, H]: what a model makes of the rows. None of too few."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _distance(make_pipeline(StandardScaler(), _classifier(0.01)), np.concatenate([source, target]), len(source))


def _classifier(strength: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000, class_weight="balanced")


def _distance(classifier: Any, features: np.ndarray, sources: int) -> float | None:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    domains = np.array([0] * sources + [1] * (len(features) - sources))
    if min(sources, len(features) - sources) < LEAST:
        return None
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    guesses = cross_val_predict(classifier, features, domains, cv=folds)
    error = 1 - balanced_accuracy_score(domains, guesses)
    return float(max(0.0, 2 * (1 - 2 * error)))
