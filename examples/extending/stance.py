"""A task of your own: one final class that subclasses a family, in a module of your own package.

task: my_package.stance:Stance
"""

from keeltune.data.columns import Column
from keeltune.tasks.families.sequence_classification import SequenceClassification


class Stance(SequenceClassification):
    """What a text says of a claim, such as for, against or neither: `text` is read with the claim, `text_pair`.

    Metrics: macro-F1, accuracy, checked against scikit-learn.
    """

    columns = (
        Column("text", "text"),
        Column("text_pair", "text"),  # here a row without a claim is a fault of the data
        Column("label", "label", label=True),
    )

    @property
    def reported(self) -> tuple[str, ...]:
        return ("macro_f1", "accuracy")  # the first chooses the best weights
