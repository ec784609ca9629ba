from __future__ import annotations

from keeltune.tasks.families.sequence_classification import SequenceClassification


class TextClassification(SequenceClassification):
    """A text (or a pair of texts) gets one of a set of labels, or with `multi_label: true` several of them.

    Metrics: accuracy, macro-F1, Matthews correlation; for several labels micro-F1, macro-F1 and accuracy (the whole set
    is right). Checked against scikit-learn.
    """

    accepts_multi_label = True

    @property
    def reported(self) -> tuple[str, ...]:
        return ("micro_f1", "macro_f1", "accuracy") if self.settings.multi_label else ("accuracy", "macro_f1", "mcc")
