"""The fields of `evaluation`: when the student is measured while it trains, and how rows are grouped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from keeltune.recipe.field_types import AsMapping, AsNumber, AsText, Auto, AutoOrKind, ByKind, Declared, Text


class MetricDirection(Declared):
    """A metric of one's own with its direction."""

    name: Text = Field(description="my_package.my_module:function.")
    greater_is_better: bool = Field(description="Whether the larger of two of its scores is the better one.")


class Evaluation(Declared):
    """When the student is measured while it trains."""

    every: Annotated[Auto | AsNumber[PositiveInt], AutoOrKind] = Field(
        default="auto",
        description="Steps; auto: each epoch, or ten times a run where that costs less than a tenth of the training.",
    )
    rows: PositiveInt | None = Field(
        default=None,
        description="Validation rows to measure on while training; null: all, or 200 where text is written.",
    )
    patience: Annotated[Auto | AsNumber[PositiveInt], AutoOrKind] | None = Field(
        default="auto",
        description="Evaluations without a gain before training stops early; null: never; auto: 5, and not before 40 % "
        "of the steps.",
    )
    metric: Annotated[AsText | AsMapping[MetricDirection], ByKind] | None = Field(
        default=None,
        description="The metric by which the best weights are chosen and training stops early, reported first; null: "
        "the task's primary one. Any that the run reports, loss and perplexity among them; of one label, as "
        "recall.LABEL, precision.LABEL or f1.LABEL; brier or ece of its probabilities; my_package.my_module:function, "
        "or {name: my_package.my_module:function, greater_is_better: false}.",
    )
    metrics: list[Annotated[AsText | AsMapping[MetricDirection], ByKind]] = Field(
        default_factory=list,
        description="Metrics that are reported besides the task's: names of `keeltune/tasks/metrics/`, "
        "my_package.my_module:Name, or a function as for metric.",
    )
    language: Text | None = Field(
        default=None,
        description="The language that answers are scored in, as de, zh-Hant, deu_Latn or German; null: the target of "
        "`languages`, else told once from the right answers. English alone has stems (ROUGE) and articles (F1).",
    )
    bleu_tokenizer: Text | None = Field(
        default=None,
        description="BLEU's tokens, by sacrebleu's name, such as 13a, intl, char, ja-mecab, flores200; null: those of "
        "the language.",
    )
    normalizer: Literal["whisper"] | None = Field(
        default=None,
        description="How transcripts are made alike before WER and CER: whisper, its own normaliser (English: numbers, "
        "contractions, spellings; else lower case and no signs); null: lower case, no punctuation.",
    )
    clusters: Text | None = Field(
        default=None,
        description="A column of the data, such as speaker: rows of one value are resampled together, which is honest "
        "where they are alike.",
    )
    slices: list[Text] | None = Field(
        default=None, description="Columns whose values are scored as groups; null: all that hold few values."
    )
    terms: Text | None = Field(
        default=None,
        description="A file of terms that are exchanged in test rows to see whether answers change; null: the one that "
        "comes with keeltune (gender, names, origin, religion; English and Chinese).",
    )

    @property
    def chosen_by(self) -> str | None:
        """The score that chooses, or the function whose first one does."""
        return self.metric.name if isinstance(self.metric, MetricDirection) else self.metric

    @property
    def added_metrics(self) -> tuple[str, ...]:
        """The metrics besides the task's, by their names."""
        return tuple(one.name if isinstance(one, MetricDirection) else one for one in self.metrics)

    @property
    def directions(self) -> dict[str, bool]:
        """Whether more is better, of functions of which the recipe says it."""
        said = [one for one in (self.metric, *self.metrics) if isinstance(one, MetricDirection)]
        return {one.name: one.greater_is_better for one in said}
