"""What a task says of itself without a model: columns, labels, what its predictions choose among, metrics."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

from keeltune.data.columns import Column
from keeltune.data.dataset import Row
from keeltune.tasks.common.fault import Fault
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.metric import Metric


class Declaration(ABC):
    """The class attributes and class methods of a task: recipes, pages and the reading of data ask no more."""

    columns: ClassVar[tuple[Column, ...]]
    """The columns a row must have, under our names."""

    auto_models: ClassVar[tuple[str, ...]]
    """The `transformers` classes that load a model for this task; the first that knows the architecture does."""

    reads: ClassVar[Literal["text", "image", "sound"]] = "text"
    """What a row's input is made of, which says what processor a model needs."""

    choices: ClassVar[Literal["labels", "numbers", "tokens", "positions"]] = "labels"
    """What a prediction chooses among. Labels fit a reference by name, however it reads the text, and numbers (which
    are said, not chosen) by their order; tokens and positions are the tokenizer's own, so a reference must have the
    very same."""

    whole_texts: ClassVar[tuple[str, ...]] = ()
    """Columns of text of which a part can be left out and the row still has an answer: one of the text as a whole."""

    passage: ClassVar[str | None] = None
    """The column of text that short answers are parts of, which tells their language better than they do."""

    generates: ClassVar[bool] = False
    """Whether an answer is written token by token: evaluation while training then looks at a subset."""

    may_generate: ClassVar[bool] = False
    """Whether it does so with some kinds of model alone (`for_model`)."""

    separate_head: ClassVar[bool] = False
    """Whether the model is an encoder with a head of the task's own on it, beside which the head that `model` had can
    be kept (`objective.anchor_head`)."""

    accepts_languages: ClassVar[bool] = False
    """Whether the recipe's `languages` say from which language into which."""

    accepts_multi_label: ClassVar[bool] = False
    """Whether a row may have several labels (`data.multi_label`)."""

    pipeline: ClassVar[str | None] = None
    """What the hub calls the task (`pipeline_tag` of a model card); None where it has no name for it."""

    answer: ClassVar[str]
    """What an answer is, which its metrics score: "label" (or a list of labels), "tags", "text", or a word of one's
    own."""

    scored_by: ClassVar[tuple[type[Metric], ...]]
    """The metrics of its answers (`tasks/metrics/`); the first name of the first is the primary one."""

    @classmethod
    def metrics_of(cls, settings: Settings) -> tuple[type[Metric], ...]:
        """Those of `scored_by` that its answers have with these labels."""
        return cls.scored_by

    @classmethod
    def for_model(cls, config: Any) -> type[Any]:
        """The class that does this task with a model of this configuration: itself, but where kinds of model differ in
        what a prediction is."""
        return cls

    @classmethod
    def labels_of(cls, row: Row) -> list[str]:
        """The label names that a row uses; none for a task without labels."""
        return []

    @classmethod
    def label_inventory(cls, names: Sequence[str]) -> list[str]:
        """The label inventory that the names of the training rows span."""
        return list(names)

    @classmethod
    def faults(cls, row: Row, *, labelled: bool = True) -> Iterable[Fault]:
        """What is wrong with a row, beyond what its columns' kinds check one by one; not `labelled`: it is only read.

        Columns of labels that are not read may be there and hold anything.
        """
        return ()

    @classmethod
    def finds_faults(cls) -> bool:
        """Whether it has `faults` of its own, so that every row must be made before its batch is left."""
        return getattr(cls.faults, "__func__", None) is not getattr(Declaration.faults, "__func__", None)
