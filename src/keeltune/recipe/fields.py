"""The fields of a recipe, each declared once with its type, default and description.

The YAML, the command's help, the JSON Schema and the reference page are made from these declarations.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    model_validator,
)

from keeltune.recipe.data_fields import Data, Source
from keeltune.recipe.field_types import (
    AsList,
    AsMapping,
    AsNumber,
    AsText,
    Auto,
    AutoOrKind,
    ByKind,
    Declared,
    Each,
    Section,
    Seed,
    Share,
    Text,
    kind,
)
from keeltune.recipe.regularizer_fields import Regularizers
from keeltune.recipe.yaml_document import Document, yaml_of
from keeltune.utils import registry
from keeltune.utils.errors import Problem
from keeltune.utils.messages import languages

Method = Literal["fine-tuning", "distillation", "cross-domain"]

Precision = Literal["auto", "fp32", "bf16"]


def _model_kind(value: Any) -> str:
    if isinstance(value, (dict, BaseModel)):
        new = isinstance(value, NewModel) or (isinstance(value, dict) and "new" in value)
        return "‹{new, tokenizer}›" if new else "‹{from, layers}›"
    return kind(value)


class StudentFrom(Declared):
    """A smaller student, made of some layers of a teacher."""

    teacher: Text = Field(alias="from", description="The model that the layers are taken from: a folder or a hub id.")
    layers: Annotated[AsNumber[PositiveInt] | AsList[NonNegativeInt], ByKind] = Field(
        description="How many layers, spread evenly over the teacher's; or the list of them, counted from 0."
    )


class TrainTokenizer(Declared):
    """A tokenizer trained on the recipe's own data."""

    train: Literal["bpe", "unigram", "wordpiece", "characters"] = Field(
        description="The kind of tokenizer; characters for CTC."
    )
    size: PositiveInt = Field(description="The size of its vocabulary.")


class NewModel(Declared):
    """A model that starts from random weights."""

    new: dict[Text, Any] = Field(description="Its configuration, with `model_type`.")
    tokenizer: Annotated[AsText | AsMapping[TrainTokenizer], ByKind] | None = Field(
        default=None, description="A tokenizer's folder or hub id, or {train: bpe, size: 8000}."
    )


class ReferenceSpec(Declared):
    """The distribution that the student is held near, with how it is reached."""

    model: Annotated[AsText | AsList[Text], ByKind] | None = Field(
        default=None, description="A folder or hub id, or a list of them (their probabilities are averaged)."
    )
    origin: Literal["auto", "online", "cached", "adapter-off", "served"] = Field(
        default="auto",
        alias="from",
        description="Where its answers come from: online, beside the student; cached, computed once, ahead of "
        "training; served, computed once by a server; adapter-off: the student without its adapter; auto: what "
        "measured costs choose, without changing what is trained.",
    )
    weight: list[PositiveFloat] | None = Field(
        default=None, description="The weight of each of several models in their average; null: all alike."
    )
    temperature: Annotated[AsNumber[PositiveFloat] | Each, ByKind] | None = Field(
        default=None,
        description="What a teacher's logits are divided by before anything else, which calibrates it; a list: one for "
        "each model. A run measures what fits. The texts that a teacher writes ahead stay the same.",
    )
    cache: Text | None = Field(
        default=None, description="The folder of its cached answers; null: `.cache/<identity>/` beside the recipe."
    )
    url: Text | None = Field(
        default=None,
        description="served: where the server is, such as http://127.0.0.1:8000; `model` is its name there.",
    )
    allow_host: Text | None = Field(
        default=None, description="served: the url's host, if it is not this machine: rows are sent there."
    )
    form: Literal["auto", "full", "top-k", "hidden"] = Field(
        default="auto",
        description="What is cached: full, every choice; top-k, the k likeliest and the mass of the rest; hidden, the "
        "vocabulary head's input; auto: what measured sizes choose.",
    )
    k: PositiveInt = Field(default=64, description="How many choices top-k keeps.")
    dtype: Literal["auto", "float32", "float16", "int8"] = Field(
        default="auto",
        description="How a cached number is kept; auto: float32 (top-k: float16; hidden: as the model has it).",
    )

    def temperatures(self, count: int) -> list[float]:
        """The temperature of each of `count` models."""
        return self.temperature if isinstance(self.temperature, list) else [self.temperature or 1.0] * count


class WeightRule(Declared):
    """A weight that is derived, not given. Exactly one of the three."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = Field(
        default=None,
        description="The reference's share between its own choice and the label up to which the label wins.",
    )
    max_kl: PositiveFloat | None = Field(default=None, description="A budget of divergence, nats a prediction.")
    max_source_drop: PositiveFloat | None = Field(default=None, description="A budget of the source metric's fall.")


class DivergenceSpec(Declared):
    """A divergence with parameters of its own: {name: jensen-shannon, beta: 0.5}."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]  # pyright: ignore[reportIncompatibleVariableOverride]

    name: Text = Field(description="A name of `keeltune/divergences/`, or my_package.my_module:function.")


class ObjectiveSpec(Declared):
    """L = Σ CE / n_CE + weight · Σ D / n_D."""

    weight: Annotated[AsNumber[NonNegativeFloat] | AsMapping[WeightRule], ByKind] | None = Field(
        default=None,
        description="λ or α: a number, {confidence: c}, {max_kl: b} or {max_source_drop: b}. null is 1.0 for "
        "distillation; for cross-domain {confidence: 0.999} on target or both, 1.0 on source or generated.",
    )
    divergence: Annotated[AsText | AsMapping[DivergenceSpec], ByKind] = Field(
        default="reverse-kl", description="D: reverse-kl is KL(student ‖ reference); a name, or {name, its parameters}."
    )
    temperature: PositiveFloat = Field(
        default=1.0, description="T of both sides; T² multiplies the value and the gradient."
    )
    anchor_on: Literal["target", "source", "both", "generated"] = Field(
        default="target", description="The rows that carry D in cross-domain fine-tuning; target is the formula."
    )
    anchor_head: Literal["task", "source", "masked-lm"] = Field(
        default="task",
        description="The head on which D is computed: task, the student's own; where the new labels are others, "
        "source, the old model's head beside the new one, or masked-lm, the pretrained head of masked tokens.",
    )
    matching: Section[dict[Text, PositiveFloat]] = Field(
        default_factory=dict,
        description="Extra terms of a distillation and their weights: names of `keeltune/matching/`, such as "
        "{hidden-states: 1.0}.",
    )

    @property
    def divergence_name(self) -> str:
        return self.divergence if isinstance(self.divergence, str) else self.divergence.name

    @property
    def divergence_parameters(self) -> dict[str, float]:
        return {} if isinstance(self.divergence, str) else dict(self.divergence.__pydantic_extra__)


class Lora(Declared):
    """Low-rank adapters (PEFT) in place of all weights. `lora: {}` means the defaults."""

    rank: PositiveInt = Field(default=16, description="Rank of each adapter.")
    alpha: PositiveFloat | None = Field(default=None, description="Scale of the update; null: twice the rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Dropout on an adapter's input.")
    target_modules: Annotated[AsText | AsList[Text], ByKind] = Field(
        default="all-linear", description="The modules that get an adapter: all-linear, a pattern, or a list of names."
    )


class Training(Declared):
    """How to train. Fields that are not declared here are passed to transformers.TrainingArguments, checked first."""

    model_config = ConfigDict(extra="allow")

    epochs: PositiveInt | None = Field(
        default=3,
        description="Passes over `train` (over `unlabeled` if there is none); null where `max_steps` is given.",
    )
    max_steps: PositiveInt | None = Field(default=None, description="Optimizer steps, in place of `epochs`.")
    learning_rate: PositiveFloat = Field(
        default=5e-5,
        description="AdamW's peak; weight decay 0.01, 10 % warm-up, linear decay and clip 1.0 unless given.",
    )
    batch_size: PositiveInt | None = Field(
        default=32,
        description="Labelled rows of one forward pass on one process; null where `tokens_per_batch` is given.",
    )
    tokens_per_batch: PositiveInt | None = Field(
        default=None, description="Tokens of one forward pass on average, in place of `batch_size`."
    )
    gradient_accumulation_steps: PositiveInt = Field(default=1, description="Forward passes of one optimizer step.")
    precision: Precision = Field(
        default="auto",
        description="bf16: float32 weights under autocast. auto: bf16 where this machine is faster in it.",
    )
    lora: Lora | None = Field(default=None, description="{rank: 16, ...}: train low-rank adapters; null: all weights.")
    l2_sp: PositiveFloat | None = Field(
        default=None,
        description="λ of λ/2 · ‖θ − θ₀‖², the squared distance from the weights before training, added to the loss.",
    )
    regularizers: Section[Regularizers] = Field(
        default_factory=Regularizers, description="Options against overfitting, all off by default."
    )
    interpolate: Annotated[AsNumber[Share] | AsText, ByKind] | None = Field(
        default="auto",
        description="The weights start + γ · (tuned − start), which cost no training. auto: where the source domain "
        "has validation rows, their scores along the way; recommended: and the recommended γ is kept; a number: that "
        "γ is kept; null: none are looked at.",
    )
    seed: Annotated[AsNumber[Seed] | AsList[Seed], ByKind] = Field(
        default=0, description="One seed, or a list: one run each."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_measure(cls, values: Any) -> Any:
        """`max_steps` takes the place of the default of `epochs`, and `tokens_per_batch` that of `batch_size`."""
        if isinstance(values, dict):
            for ours, other in (("epochs", "max_steps"), ("batch_size", "tokens_per_batch")):
                if values.get(other) is not None:
                    values = {ours: None, **values}
        return values

    @property
    def passed(self) -> dict[str, Any]:
        """The fields that are passed to transformers.TrainingArguments."""
        return dict(self.model_extra or {})


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


class Generation(Declared):
    """How text is written by the tasks that write some, and who writes the texts that are learnt."""

    beams: PositiveInt = Field(default=1, description="Beams; 1 is greedy.")
    max_new_tokens: PositiveInt = Field(default=64, description="Longest answer, in tokens.")
    targets: Literal["data", "reference", "interpolated"] = Field(
        default="data",
        description="Who writes the targets of `train`: data; reference: the teacher, ahead, to a file (sequence-level "
        "distillation); interpolated: of the teacher's beams the one nearest to the data's target. "
        "With objective.weight 0 the teacher only writes, and may have any tokenizer.",
    )
    on_policy: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Rows per labelled row whose text the student draws itself, in each step; they carry D alone.",
    )


class Languages(Declared):
    """The languages of a translation, as the model's tokenizer names them."""

    source: Text = Field(description="The language of `source`.")
    target: Text = Field(description="The language of `target`.")


class Report(Declared):
    """The HTML report of a run."""

    language: Literal[languages()] = Field(default="en", description="Its language.")  # type: ignore[valid-type]
    sections: list[Text] = Field(
        default_factory=list, description="Further sections of the page: my_package.my_module:MySection."
    )


class Recipe(Declared):
    """A run of keeltune: what to learn, from what, held near what, and where to write it."""

    task: Text = Field(description="What is predicted: a name of `keeltune/tasks/`, or my_package.my_module:MyTask.")
    method: Method = Field(
        description="fine-tuning (no reference), distillation (a teacher), cross-domain (its old self)."
    )
    model: Annotated[
        AsText | Annotated[StudentFrom, Tag("‹{from, layers}›")] | Annotated[NewModel, Tag("‹{new, tokenizer}›")],
        Discriminator(_model_kind),
    ] = Field(description="The student: a folder or hub id; {from: TEACHER, layers: 2}; or {new: {...}, tokenizer}.")
    reference: Annotated[AsText | AsList[Text] | AsMapping[ReferenceSpec], ByKind] | None = Field(
        default=None,
        description="What it is held near: a folder or hub id, a list of them, or {model, from, weight, cache}. "
        "Required for distillation; null for cross-domain: `model` as it was before training.",
    )
    data: Data = Field(description="The rows.")
    objective: Section[ObjectiveSpec] = Field(default_factory=ObjectiveSpec, description="The formula's second term.")
    training: Section[Training] = Field(default_factory=Training, description="How to train.")
    evaluation: Section[Evaluation] = Field(default_factory=Evaluation, description="When to measure.")
    generation: Section[Generation] = Field(default_factory=Generation, description="How to write text.")
    max_length: PositiveInt | None = Field(
        default=None, description="Of inputs, in tokens; null: the smaller of the tokenizer's and the model's maximum."
    )
    target_max_length: PositiveInt | None = Field(default=None, description="Of targets, in tokens.")
    prompt: Text | None = Field(default=None, description="The prompt that a decoder gets around a row.")
    languages: Languages | None = Field(default=None, description="The languages of a translation.")
    report: Section[Report] = Field(default_factory=Report, description="The report.")
    output: Text = Field(description="The run folder to write.")

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _document: Document = PrivateAttr(default_factory=lambda: Document("recipe"))

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the recipe's own."""
        return self._folder

    def path(self, value: str) -> Path:
        """`value` of a field as a path."""
        return self._folder / os.path.expanduser(value)

    def where(self, field: str = "") -> str:
        """The place of a dotted field: `recipe.where("data.train") -> "recipe.yaml:7:10"`."""
        return self._document.where(self._document.key(field))

    def problem(self, field: str, *, expected: str, fix: str, found: str | None = None) -> Problem:
        """A fault of `field`, at its place; `found` is its value unless it is said."""
        return self._document.problem(self._document.key(field), expected=expected, fix=fix, found=found)

    @property
    def seed(self) -> int:
        """The seed of the run; of several, the first."""
        seed = self.training.seed
        return seed if isinstance(seed, int) else seed[0]

    def weight_spec(self) -> float | WeightRule:
        """The weight of D: the recipe's, or the method's default; 0.0 for fine-tuning."""
        if self.method == "fine-tuning":
            return 0.0
        if self.objective.weight is not None:
            return self.objective.weight
        on_labels = self.method == "cross-domain" and self.holds_target and self.objective.anchor_head == "task"
        return WeightRule(confidence=0.999) if on_labels else 1.0

    @property
    def holds_target(self) -> bool:
        """Whether rows of the domain that is learnt carry D; a teacher speaks on whatever rows there are."""
        return self.method == "distillation" or (
            self.method == "cross-domain" and self.objective.anchor_on in ("target", "both")
        )

    @property
    def holds_old(self) -> bool:
        """Whether what the model knew is to be kept."""
        return self.method == "cross-domain"

    @property
    def holds_source(self) -> bool:
        """Whether inputs of the source domain carry D."""
        return self.method == "cross-domain" and self.objective.anchor_on in ("source", "both")

    @property
    def holds_generated(self) -> bool:
        """Whether texts that the reference writes itself carry D."""
        return self.method == "cross-domain" and self.objective.anchor_on == "generated"

    def only_writes(self) -> bool:
        """Whether the teacher writes the targets and is compared with nothing, so that it may have any tokenizer."""
        writes = self.generation.targets != "data" and self.weight_spec() == 0
        return writes and not (self.objective.matching or self.data.unlabeled or self.generation.on_policy)

    def reference_spec(self) -> ReferenceSpec | None:
        """The reference in its long form; None for fine-tuning. Its `model` is null where it is the student's start."""
        if self.method == "fine-tuning" or isinstance(self.reference, ReferenceSpec):
            return self.reference if isinstance(self.reference, ReferenceSpec) else None
        return ReferenceSpec(model=self.reference)

    @property
    def taught(self) -> bool:
        """Whether the reference is a teacher, who should know more than the student."""
        return self.method == "distillation"

    def reference_models(self) -> list[str | StudentFrom | NewModel]:
        """The models of the reference; `model` itself where cross-domain names none; none for fine-tuning."""
        spec = self.reference_spec()
        if spec is None:
            return []
        if spec.model is None:
            return [self.model]
        return [spec.model] if isinstance(spec.model, str) else list(spec.model)

    def dump(self) -> str:
        """YAML that makes this run again from any folder: every value, the defaults too, and absolute paths."""
        values = _written(self)
        data = values["data"]
        data["mix"] = self.data.mix.model_dump(exclude_unset=True)
        for rows in (data, data["source"]):
            rows |= {name: self._anywhere(rows[name]) for name in Source.model_fields if name in rows}
        for name in values.keys() & {"model", "reference"}:
            values[name] = self._model_anywhere(values[name])
        values["data"] = {name: value for name, value in data.items() if value != {}}
        held = values.get("reference"), values.get("evaluation")
        for part, name in zip(held, ("cache", "terms"), strict=True):
            if isinstance(part, dict) and part.get(name) is not None:
                part[name] = self._anywhere(part[name])
        values["output"] = self._anywhere(self.output)
        return yaml_of(values)

    def _anywhere(self, value: Any) -> Any:
        return str(self.path(value).absolute()) if isinstance(value, str) and not value.startswith("hub:") else value

    def _model_anywhere(self, value: Any) -> Any:
        """A model's path made absolute, and those of the parts of a new one; a hub id is left as it is."""
        if isinstance(value, list):
            return [self._model_anywhere(v) for v in value]
        if isinstance(value, dict):
            names = ("from",) if "layers" in value else ("model", "new", "tokenizer", "encoder", "decoder")
            return value | {name: self._model_anywhere(value[name]) for name in names if name in value}
        local = isinstance(value, str) and (value[0] in "./~" or self.path(value).exists())
        return self._anywhere(value) if local else value


def _written(model: BaseModel) -> dict[str, Any]:
    """A model's values under their YAML names; a null is left out where it is the default."""
    values: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None or field.default is not None:
            values[field.alias or name] = _written(value) if isinstance(value, BaseModel) else value
    return values | (model.model_extra or {})


def json_schema() -> dict[str, Any]:
    """The recipe as JSON Schema, from which an editor completes and checks a recipe as it is typed."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["properties"]["task"]["examples"] = registry.names("tasks")
    of_objective = schema["$defs"]["ObjectiveSpec"]["properties"]
    of_objective["divergence"]["examples"] = registry.names("divergences")
    of_objective["matching"]["examples"] = [{name: 1.0} for name in registry.names("matching")]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
