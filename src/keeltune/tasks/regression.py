from __future__ import annotations

from keeltune.data.columns import Column
from keeltune.tasks.families.sequence_regression import SequenceRegression


class Regression(SequenceRegression):
    """A number for a text or a pair of texts, or several numbers: a rating, a similarity (STS), valence and arousal.

    Metrics: R², Pearson's and Spearman's correlation, mean absolute error and root mean squared error, the latter two
    in the unit of the rows; of several numbers the mean over them. Checked against scipy and scikit-learn.
    """

    columns = (
        Column("text", "text"),
        Column("text_pair", "text", required=False),
        Column("target", "numbers", label=True),
    )

    @property
    def reported(self) -> tuple[str, ...]:
        return ("r2", "pearson", "spearman", "mae", "rmse")
