"""The fields of `data`: where the rows lie, which streams join the labelled ones, how they are mixed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from keeltune.recipe.field_types import (
    AsList,
    AsMapping,
    AsNumber,
    AsText,
    Balanced,
    BalancedOrKind,
    ByKind,
    Declared,
    Label,
    Section,
    Share,
    Text,
)
from keeltune.recipe.generation_fields import Prompt, plain
from keeltune.recipe.task_names import TaskName

AUTO = "auto"
"""In the place of a value that depends on what there is."""


class NamedTest(Declared):
    """Rows that show one ability, by a task of their own: `{name: chats, data: chats.jsonl, task: text-generation}`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")] = Field(
        description="What the report calls it: small letters, digits, - and _."
    )
    data: Text = Field(description="Its labelled rows.")
    task: TaskName | None = Field(
        default=None, description="What is asked of them; null: the recipe's task. Another one needs the same head."
    )
    columns: Section[dict[Text, Text]] = Field(
        default_factory=dict, description="{our name: the file's name}, where they differ."
    )
    prompt: Prompt | None = Field(default=None, description="As the recipe's `prompt`, for these rows.")
    max_new_tokens: PositiveInt | None = Field(
        default=None, description="The most tokens of an answer; null: `generation.max_new_tokens`."
    )

    @property
    def asked(self) -> Any:
        """`prompt` as plain JSON: a text, or messages."""
        return plain(self.prompt)


class HarnessTasks(Declared):
    """Tasks of the lm-evaluation-harness: `{tasks: [arc_easy], limit: 200}`; a bare list names them alone."""

    tasks: Annotated[list[Text], Field(min_length=1)] = Field(
        description="Names of its tasks; a group or a tag stands for each of its tasks."
    )
    limit: PositiveInt | None = Field(default=None, description="The first rows of each task alone; null: all.")
    num_fewshot: NonNegativeInt | None = Field(
        default=None, description="Worked examples before each question; null: as many as the task says."
    )
    include_path: Text | None = Field(
        default=None, description="A folder of task files (YAML) of your own; code that they name is run."
    )


class Source(Declared):
    """The old domain: forgetting is measured on it, and it can carry the anchor."""

    train: Text | None = Field(default=None, description="Labelled rows, replayed while the new domain is learned.")
    unlabeled: Text | None = Field(
        default=None, description="Inputs alone, which carry D where `objective.anchor_on` says so."
    )
    validation: Text | None = Field(
        default=None, description="The control slice: scored before and after, held by budgets and by interpolation."
    )
    test: Annotated[AsText | AsList[NamedTest], ByKind] | None = Field(
        default=None,
        description="Scored before and after training, into `metrics.source`; or a list of named sets, each with a "
        "task of its own, into `abilities`.",
    )

    lm_eval: Annotated[AsList[Text] | AsMapping[HarnessTasks], ByKind] | None = Field(
        default=None,
        description="Tasks of the lm-evaluation-harness, for decoders: scored before and after, into `abilities`.",
    )

    @property
    def harness(self) -> HarnessTasks | None:
        """`lm_eval`, a bare list as its tasks."""
        return HarnessTasks(tasks=self.lm_eval) if isinstance(self.lm_eval, list) else self.lm_eval

    @property
    def named_tests(self) -> list[NamedTest]:
        """The sets of `test`, where it is a list."""
        return self.test if isinstance(self.test, list) else []


class Augment(Declared):
    """Variants of the texts of `train` and `unlabeled`, labelled by the teacher alone. `augment: {}`: defaults."""

    word_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="The probability that a word is left out; Chinese by character."
    )
    crops: bool = Field(default=True, description="Whether a variant is a part of the text: half of its words or more.")
    variants: PositiveInt = Field(default=4, description="Variants of each text.")


class Mix(Declared):
    """Rows of each further stream per labelled row, in the same batch."""

    unlabeled: PositiveFloat = Field(default=1.0, description="Rows of `data.unlabeled` per labelled row.")
    augmented: PositiveFloat = Field(default=1.0, description="Variants of `data.augment` per labelled row.")
    source_unlabeled: PositiveFloat = Field(
        default=1.0, description="Rows of `data.source.unlabeled` per labelled row."
    )
    source: PositiveFloat = Field(default=0.25, description="Rows of `data.source.train` per labelled row.")


class Data(Declared):
    """The rows. A path is relative to the recipe's folder: jsonl, json, csv, tsv, conll, arrow, parquet, each also .gz;
    a folder; or hub:NAME[@revision][:config]."""

    train: Text | None = Field(default=None, description="The labelled rows to learn from.")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="How much of `train` is learnt, of each label as much; the rows of a smaller share are among a "
        "larger one's.",
    )
    share_seed: NonNegativeInt = Field(default=0, description="Which rows a `share` takes: another number, other rows.")
    validation: Annotated[AsText | AsNumber[Share], ByKind] | None = Field(
        default="auto",
        description="The rows that choose the best model; or a share of `train`, split off by the seed; auto: a tenth "
        "of `train`, of few rows up to a fifth, and none below 100, label by label, rows that share an input on one "
        "side; null: none.",
    )
    test: Text | None = Field(default=None, description="The rows that are scored once, at the end.")
    unlabeled: Text | None = Field(
        default=None, description="Inputs without labels: only D is computed on them. What makes distillation pay."
    )
    unlabeled_as: Literal["distribution", "labels"] = Field(
        default="distribution",
        description="What the reference's answer to rows without labels is: its distribution, by D; or its choice as "
        "their label, by CE and without D (hard pseudo-labels, the control of a distillation).",
    )
    augment: Augment | None = Field(
        default=None, description="{word_dropout: 0.1, ...}: texts with words left out, labelled by the teacher alone."
    )
    source: Section[Source] = Field(default_factory=Source, description="The old domain's rows.")
    mix: Section[Mix] = Field(default_factory=Mix, description="How the streams are mixed.")
    format: Text | None = Field(
        default=None,
        description="The format of its files: a name of `keeltune/data/file_formats/`, or my_package.my_module:Name; "
        "null: by each file's ending.",
    )
    columns: Section[dict[Text, Text]] = Field(
        default_factory=dict,
        description="{our name: the file's name}, where they differ; `translation.en` for what is nested.",
    )
    labels: Annotated[AsList[Label] | AsMapping[dict[Label, Label]], ByKind] | None = Field(
        default=None, description="The label names; or a map from names in the data to names of the model."
    )
    multi_label: bool = Field(
        default=False, description="Whether a row's label is a list: a yes or no for each of the names."
    )
    class_weights: Annotated[Balanced | AsMapping[dict[Label, PositiveFloat]], BalancedOrKind] | None = Field(
        default=None, description="balanced, or {name: w}: multiplies a prediction's CE; D is not weighted."
    )
    bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse", description="skip: leave faulty rows out, count and list them."
    )

    @property
    def named_validation(self) -> str | float | None:
        """`validation` where the recipe says something of it."""
        return None if self.validation == AUTO else self.validation
