from __future__ import annotations

from keeltune.tasks.families.sequence_classification import SequenceClassification


class SentimentAnalysis(SequenceClassification):
    """The sentiment of a text (or of a pair of texts). Metrics: accuracy, macro-F1, checked against scikit-learn."""

    @property
    def reported(self) -> tuple[str, ...]:
        return ("accuracy", "macro_f1")
