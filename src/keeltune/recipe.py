"""The recipe: everything that a run is, in one YAML file.

A field is declared once, with its type, default and description; the YAML, the command's help, the JSON Schema and
the reference page are made from these declarations. `load`, `parse` and `from_dict` are the doors: they find every
fault at once, each with its line, and raise one `UserError`. Nothing heavy is imported unless the recipe asks for it.

Read from the top: the fields; what the method, the objective and the data allow together; the fields that are passed
to `transformers.TrainingArguments`; pydantic's faults as problems; and the text, whose every value knows its line.
"""

from __future__ import annotations

import copy
import difflib
import enum
import inspect
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from keeltune import registry
from keeltune.problems import Problem, UserError, nearest, shown

# ── Types ────────────────────────────────────────────────────────────────────────────────────────────────────────────
# A field that takes several kinds of value is a union told apart by the kind of what was found, so that a fault names
# one field and one expectation, not one for each branch.

T = TypeVar("T")
Method = Literal["fine-tuning", "distillation", "cross-domain"]
Precision = Literal["auto", "fp32", "bf16"]
Key = tuple[str | int, ...]
"""A field as its steps: ("data", "columns", "text")."""

_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}


def _kind(value: Any) -> str:
    return f"‹{_KINDS.get(type(value), 'a mapping')}›"


def _word_or_kind(word: str) -> Discriminator:
    """Tells the kinds apart where of all texts only `word` is taken."""
    return Discriminator(lambda value: f"‹{word}›" if isinstance(value, str) else _kind(value))


def _model_kind(value: Any) -> str:
    if isinstance(value, (dict, BaseModel)):
        new = isinstance(value, NewModel) or (isinstance(value, dict) and "new" in value)
        return "‹{new, tokenizer}›" if new else "‹{from, layers}›"
    return _kind(value)


def _text(value: str) -> str:
    if not value.strip() or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("text that is not empty and has no NUL or broken character")
    return value


def _distinct(values: list[T]) -> list[T]:
    if twice := sorted({str(v) for v in values if values.count(v) > 1}):
        raise ValueError(f"each entry once; twice there: {', '.join(twice)}")
    return values


Text = Annotated[str, AfterValidator(_text)]
AsText = Annotated[Text, Tag("‹text›")]
AsNumber = Annotated[T, Tag("‹a number›")]
AsList = Annotated[list[T], Field(min_length=1), AfterValidator(_distinct), Tag("‹a list›")]
AsMapping = Annotated[T, Tag("‹a mapping›")]
ByKind = Discriminator(_kind)
Label = Annotated[AsText | AsNumber[int], ByKind]
Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Auto = Annotated[Literal["auto"], Tag("‹auto›")]
AutoOrKind = _word_or_kind("auto")
Balanced = Annotated[Literal["balanced"], Tag("‹balanced›")]
BalancedOrKind = _word_or_kind("balanced")
Section = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]
"""A mapping whose fields all have defaults: `training:` with nothing below it means those."""


class Declared(BaseModel):
    """Fields that are closed (an unknown one is a fault), exact in their types, finite and unchanging."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "invalid_key": "text as a name",
    "none_required": "nothing",
}


def expectation(error: ErrorDetails) -> str:
    """pydantic's expectation, in the words of a recipe."""
    if error["type"] == "union_tag_invalid":
        return " or ".join(re.findall("‹(.*?)›", error.get("ctx", {})["expected_tags"]))
    if error["type"] == "value_error":
        return str(error.get("ctx", {})["error"])
    return _TYPES.get(error["type"]) or error["msg"].removeprefix("Input should be ")


# ── The fields ───────────────────────────────────────────────────────────────────────────────────────────────────────


class StudentFrom(Declared):
    """A smaller student, made of some layers of a teacher."""

    teacher: Text = Field(alias="from", description="The model that the layers are taken from: a folder or a hub id.")
    layers: Annotated[AsNumber[PositiveInt] | AsList[NonNegativeInt], ByKind] = Field(
        description="How many layers, spread evenly over the teacher's; or the list of them, counted from 0."
    )


class TrainTokenizer(Declared):
    """A tokenizer trained on the recipe's own data."""

    train: Literal["bpe", "unigram", "wordpiece"] = Field(description="The kind of tokenizer.")
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
        description="Where its answers come from: online, beside the student; adapter-off: the student without its "
        "adapter; auto: the one of these that fits.",
    )
    weight: list[PositiveFloat] | None = Field(
        default=None, description="The weight of each of several models in their average; null: all alike."
    )
    cache: Text | None = Field(
        default=None, description="The folder of its cached answers; null: one beside the recipe."
    )


class Source(Declared):
    """The old domain: forgetting is measured on it, and it can carry the anchor."""

    train: Text | None = Field(default=None, description="Labelled rows, replayed while the new domain is learned.")
    unlabeled: Text | None = Field(default=None, description="Inputs alone, for `objective.anchor_on: source`.")
    validation: Text | None = Field(default=None, description="The control slice for budgets and interpolation.")
    test: Text | None = Field(default=None, description="Scored before and after training, into `metrics.source`.")


class Mix(Declared):
    """Rows of each further stream per labelled row, in the same batch."""

    unlabeled: PositiveFloat = Field(default=1.0, description="Rows of `data.unlabeled` per labelled row.")
    source_unlabeled: PositiveFloat = Field(
        default=1.0, description="Rows of `data.source.unlabeled` per labelled row."
    )
    source: PositiveFloat = Field(default=0.25, description="Rows of `data.source.train` per labelled row.")


class Data(Declared):
    """The rows. A path is relative to the recipe's folder: jsonl, json, csv, tsv, parquet, each also .gz; a folder; or
    hub:NAME[@revision][:config]."""

    train: Text | None = Field(default=None, description="The labelled rows to learn from.")
    validation: Annotated[AsText | AsNumber[Share], ByKind] | None = Field(
        default=None, description="The rows that choose the best model; or a share of `train`, split off by the seed."
    )
    test: Text | None = Field(default=None, description="The rows that are scored once, at the end.")
    unlabeled: Text | None = Field(
        default=None, description="Inputs without labels: only D is computed on them. What makes distillation pay."
    )
    source: Section[Source] = Field(default_factory=Source, description="The old domain's rows.")
    mix: Section[Mix] = Field(default_factory=Mix, description="How the streams are mixed.")
    columns: Section[dict[Text, Text]] = Field(
        default_factory=dict, description="{our name: the file's name}, where they differ."
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
        default=None, description="Tokens of one forward pass, in place of `batch_size`."
    )
    gradient_accumulation_steps: PositiveInt = Field(default=1, description="Forward passes of one optimizer step.")
    precision: Precision = Field(
        default="auto",
        description="bf16: float32 weights under autocast. auto: bf16 where this machine is faster in it.",
    )
    lora: Lora | None = Field(default=None, description="{rank: 16, ...}: train low-rank adapters; null: all weights.")
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
        default="auto", description="Steps; auto: each epoch."
    )
    rows: PositiveInt | None = Field(default=None, description="Validation rows to measure on; null: all.")
    patience: Annotated[Auto | AsNumber[PositiveInt], AutoOrKind] | None = Field(
        default="auto", description="Evaluations without a gain before training stops early; null or auto: never."
    )


class Generation(Declared):
    """How text is written by the tasks that write some."""

    beams: PositiveInt = Field(default=1, description="Beams; 1 is greedy.")
    max_new_tokens: PositiveInt = Field(default=64, description="Longest answer, in tokens.")


class Languages(Declared):
    """The languages of a translation, as the model's tokenizer names them."""

    source: Text = Field(description="The language of `source`.")
    target: Text = Field(description="The language of `target`.")


class Report(Declared):
    """The HTML report of a run."""

    language: Literal["en", "zh"] = Field(default="en", description="Its language.")


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

    def problem(self, field: str, *, expected: str, mend: str, found: str | None = None) -> Problem:
        """A fault of `field`, at its place; `found` is its value unless it is said."""
        return self._document.problem(self._document.key(field), expected=expected, mend=mend, found=found)

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
        on_labels = self.method == "cross-domain" and self.objective.anchor_on in ("target", "both")
        return WeightRule(confidence=0.999) if on_labels else 1.0

    def reference_spec(self) -> ReferenceSpec | None:
        """The reference in its long form; None for fine-tuning. Its `model` is null where it is the student's start."""
        if self.method == "fine-tuning" or isinstance(self.reference, ReferenceSpec):
            return self.reference if isinstance(self.reference, ReferenceSpec) else None
        return ReferenceSpec(model=self.reference)

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
        values["output"] = self._anywhere(self.output)
        return yaml_of(values)

    def _anywhere(self, value: Any) -> Any:
        return str(self.path(value).absolute()) if isinstance(value, str) and not value.startswith("hub:") else value

    def _model_anywhere(self, value: Any) -> Any:
        """A model's path made absolute; a hub id is left as it is."""
        if isinstance(value, list):
            return [self._model_anywhere(v) for v in value]
        if isinstance(value, dict):
            name = "from" if "layers" in value else "model"
            return value | {name: self._model_anywhere(value.get(name))}
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
    schema["$defs"]["ObjectiveSpec"]["properties"]["divergence"]["examples"] = registry.names("divergences")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# ── The doors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file. `overrides` are assignments such as "training.epochs=5", the value as YAML.

    Raises `UserError` with every problem of the file and the overrides.
    """
    path = Path(path)
    document = Document(str(path))
    document.read(text_of(path))
    return _recipe(document, path.absolute().parent, overrides)


def parse(text: str, *, folder: Path | str, where: str = "recipe.yaml", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `text`. `folder`: where its relative paths start; `where`: what messages call it."""
    document = Document(where)
    document.read(text)
    return _recipe(document, Path(folder).absolute(), overrides)


def from_dict(values: Mapping[str, Any], folder: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a mapping as YAML would give it. `folder`: where its relative paths start."""
    document = Document("recipe")
    document.take(values)
    return _recipe(document, Path(folder).absolute(), overrides)


def _recipe(document: Document, folder: Path, overrides: Sequence[str]) -> Recipe:
    for assignment in overrides:
        document.override(assignment)
    recipe, faults, replaced = _validated(document)
    recipe._folder, recipe._document = folder, document
    problems = list(document.problems)
    problems += _no_consequences(faults, problems)
    problems += _no_consequences(cross_faults(recipe, replaced), problems)
    if problems:
        raise UserError(sorted(_without_misspelt(problems), key=_line))
    return recipe


def _no_consequences(problems: Iterable[Problem], earlier: Sequence[Problem]) -> list[Problem]:
    """`problems` without those of a field that an earlier one is about, or of one above or below that field."""
    known = [f"{problem.field}." for problem in earlier if problem.field]
    new = []
    for problem in problems:
        field = f"{problem.field}."
        if not any(field.startswith(other) or other.startswith(field) for other in known):
            new.append(problem)
    return new


def _without_misspelt(problems: Sequence[Problem]) -> list[Problem]:
    """Leave out that a field is missing where a misspelt one beside it is what was meant."""
    meant = set()
    for problem in problems:
        if match := re.search(r'correct the name; did you mean "(.*)"\?$', problem.mend):
            meant.add(".".join([*problem.field.split(".")[:-1], match[1]]))
    return [problem for problem in problems if problem.found != "nothing" or problem.field not in meant]


def _line(problem: Problem) -> tuple[int, int]:
    place = re.search(r":(\d+):(\d+)$", problem.where)
    return (int(place[1]), int(place[2])) if place else (2**31, 0)


# ── What the method, the objective and the data allow together ───────────────────────────────────────────────────────

APPLICATIONS = (
    "text-classification",
    "sentiment-analysis",
    "question-answering",
    "semantic-role-labeling",
    "summarization",
    "translation",
    "image-captioning",
    "speech-recognition",
    "text-generation",
)
"""The tasks that keeltune is for; one without a file in `tasks/` is not built yet."""

_PARAMETER_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "beta": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "a": ("a number between 0 and 1", lambda value: 0 < value < 1),
}


def cross_faults(recipe: Recipe, replaced: set[str]) -> Iterator[Problem]:
    """The faults that no field shows alone. `replaced`: fields that stand-ins hold, whose checks would mislead."""
    distils = "method" in replaced or recipe.method == "distillation"
    if recipe.data.train is None and not (distils and recipe.data.unlabeled is not None):
        mend = "add data.train: FILE; distillation can do with data.unlabeled: FILE alone"
        yield recipe.problem("data.train", expected="the labelled rows to learn from", mend=mend)
    yield from _unbuilt(recipe)
    yield from _data_faults(recipe)
    yield from _divergence_faults(recipe)
    yield from _training_faults(recipe)
    if "task" not in replaced:
        yield from _task_faults(recipe)
    if "method" not in replaced:
        yield from _fine_tuning_faults(recipe) if recipe.method == "fine-tuning" else _anchor_faults(recipe)


def _unbuilt(recipe: Recipe) -> Iterator[Problem]:
    source, mix, objective = recipe.data.source, recipe.data.mix, recipe.objective
    rule = objective.weight if isinstance(objective.weight, WeightRule) else WeightRule()
    reference = recipe.reference if isinstance(recipe.reference, ReferenceSpec) else ReferenceSpec()
    asked = {
        "model.new": isinstance(recipe.model, NewModel) and "a new model",
        "reference.from": reference.origin in ("cached", "served") and f"from: {reference.origin}",
        "reference.cache": reference.cache and "a cached reference",
        "data.source.train": source.train and "replay of source rows",
        "data.source.unlabeled": source.unlabeled and "an anchor on source rows",
        "data.source.validation": source.validation and "a control slice",
        "data.mix.source": "source" in mix.model_fields_set and "replay of source rows",
        "data.mix.source_unlabeled": "source_unlabeled" in mix.model_fields_set and "an anchor on source rows",
        "objective.weight.max_kl": rule.max_kl and "a budget of divergence",
        "objective.weight.max_source_drop": rule.max_source_drop and "a budget of forgetting",
        "objective.anchor_on": objective.anchor_on != "target" and f"anchor_on: {objective.anchor_on}",
        "training.seed": isinstance(recipe.training.seed, list) and "a run of several seeds",
        "generation": recipe.generation != Generation() and "a task that generates",
        "target_max_length": recipe.target_max_length and "a task with target texts",
        "prompt": recipe.prompt and "a task with a prompt",
        "languages": recipe.languages and "translation",
        "report.language": recipe.report.language != "en" and "a report in Chinese",
    }
    for field, what in asked.items():
        if what:
            yield recipe.problem(field, expected=f"what this version has: {what} is not built yet", mend="leave it out")


def _task_faults(recipe: Recipe) -> Iterator[Problem]:
    built, task = registry.names("tasks"), recipe.task
    if ":" not in task and task not in built:
        expected = f"one of: {', '.join(built)}; or my_package.my_module:MyTask"
        mend = f"choose one of them{nearest(task, [*built, *APPLICATIONS])}"
        if task in APPLICATIONS:
            expected, mend = f"what this version has: {task} is not built yet; {expected}", "choose one of them"
        yield recipe.problem("task", expected=expected, mend=mend)
    if recipe.data.multi_label and task != "text-classification" and ":" not in task:
        mend = "write task: text-classification, or leave multi_label out"
        yield recipe.problem("data.multi_label", expected=f"false: {task} gives a row one label", mend=mend)


def _data_faults(recipe: Recipe) -> Iterator[Problem]:
    data, evaluation = recipe.data, recipe.evaluation
    if isinstance(data.validation, float) and data.train is None:
        mend = "name a file of validation rows"
        yield recipe.problem(
            "data.validation", expected="a file: without data.train there is nothing to split", mend=mend
        )
    if data.validation is None:
        for field, value in (("every", evaluation.every), ("patience", evaluation.patience)):
            if isinstance(value, int):
                expected = f"{field} with validation rows: without data.validation nothing is measured while it trains"
                yield recipe.problem(
                    f"evaluation.{field}", expected=expected, mend="add data.validation: 0.1, say, or leave it out"
                )
    if "unlabeled" in data.mix.model_fields_set and (data.train is None or data.unlabeled is None):
        missing = "data.train" if data.train is None else "data.unlabeled"
        mend = f"leave it out, or add {missing}"
        yield recipe.problem("data.mix.unlabeled", expected=f"two streams to mix: {missing} is missing", mend=mend)
    if data.labels is None:
        return
    names = list(data.labels.values() if isinstance(data.labels, dict) else data.labels)
    if len(set(names)) < 2 and not data.multi_label:
        yield recipe.problem("data.labels", expected="two names at least", mend="name every label of the data")
    for name in (name for name in data.class_weights or () if data.class_weights != "balanced" and name not in names):
        expected = f"a name of data.labels: {', '.join(map(str, names))}"
        mend = f"correct the name{nearest(name, map(str, names))}"
        yield recipe.problem(f"data.class_weights.{name}", found=shown(name), expected=expected, mend=mend)


def _divergence_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, name = recipe.objective, recipe.objective.divergence_name
    field = "objective.divergence" if isinstance(objective.divergence, str) else "objective.divergence.name"
    known = registry.names("divergences")
    if name not in known and ":" not in name:
        mend = f"choose one of them{nearest(name, known)}"
        yield recipe.problem(field, expected=f"one of: {', '.join(known)}", mend=mend)
    elif objective.divergence_parameters:
        yield from _parameter_faults(recipe)
    if name == "total-variation" and objective.temperature != 1:
        mend = "leave objective.temperature out, or choose another divergence"
        yield recipe.problem("objective.temperature", expected="1.0: total-variation has no T² scaling", mend=mend)


def _parameter_faults(recipe: Recipe) -> Iterator[Problem]:
    """The divergence's own parameters, against its signature: the function is the one place that names them."""
    name = recipe.objective.divergence_name
    try:
        signature = inspect.signature(registry.find("divergences", name))
    except Exception as error:  # a module outside the package can fail in its own way when it is imported
        mend = "correct the name, or start the command where the module can be imported"
        yield recipe.problem(
            "objective.divergence.name", expected=f"a function that can be imported ({error})", mend=mend
        )
        return
    accepted = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    for parameter, value in recipe.objective.divergence_parameters.items():
        field = f"objective.divergence.{parameter}"
        expected, holds = _PARAMETER_RANGES.get(parameter, ("a number", math.isfinite))
        if parameter not in accepted:
            mend = f"leave it out{nearest(parameter, accepted)}"
            yield recipe.problem(
                field, expected=f"a parameter of {name}: {', '.join(accepted) or 'it has none'}", mend=mend
            )
        elif not holds(value):
            yield recipe.problem(field, expected=expected, mend=f"change {parameter}")


def _fine_tuning_faults(recipe: Recipe) -> Iterator[Problem]:
    """Fine-tuning is the formula's first term alone; what belongs to the second would be ignored."""
    choose = "choose method: distillation (held near a teacher) or cross-domain (near its old self), or leave it out"
    objective, default = recipe.objective, ObjectiveSpec()
    if recipe.reference is not None:
        yield recipe.problem("reference", expected="no reference: fine-tuning is held near nothing", mend=choose)
    if objective.weight not in (None, 0):
        yield recipe.problem(
            "objective.weight", expected="no weight: fine-tuning has no divergence to weigh", mend=choose
        )
    for name in ("divergence", "temperature"):
        if getattr(objective, name) != getattr(default, name):
            yield recipe.problem(f"objective.{name}", expected=f"no {name}: fine-tuning has no divergence", mend=choose)
    if recipe.data.unlabeled is not None:
        expected = "no unlabelled rows: fine-tuning learns from labels alone"
        yield recipe.problem("data.unlabeled", expected=expected, mend=choose)


def _anchor_faults(recipe: Recipe) -> Iterator[Problem]:
    """The second term of distillation and cross-domain fine-tuning: its reference and its weight."""
    reference = recipe.reference_spec()
    if recipe.method == "distillation" and (reference is None or reference.model is None):
        yield recipe.problem("reference", expected="a teacher: distillation needs one", mend="add reference: TEACHER")
    if isinstance(recipe.reference, ReferenceSpec):
        yield from _reference_faults(recipe, recipe.reference)
    yield from _weight_faults(recipe)


def _reference_faults(recipe: Recipe, reference: ReferenceSpec) -> Iterator[Problem]:
    models = recipe.reference_models()
    if reference.weight is not None and len(reference.weight) != len(models):
        expected = f"a weight for each of the {len(models)} models"
        mend = "they weigh the models in their average; how near the student is held is objective.weight"
        yield recipe.problem("reference.weight", expected=expected, mend=mend)
    if reference.origin == "adapter-off" and (recipe.training.lora is None or models != [recipe.model]):
        expected = "training.lora, and the student's own model as reference: it is the student without its adapter"
        yield recipe.problem(
            "reference.from", expected=expected, mend="add training.lora: {rank: 16}, or write from: auto"
        )


def _weight_faults(recipe: Recipe) -> Iterator[Problem]:
    objective, rule = recipe.objective, recipe.weight_spec()
    if not isinstance(rule, WeightRule):
        return
    if len([value for value in rule.model_dump().values() if value is not None]) != 1:
        expected = "exactly one of confidence, max_kl, max_source_drop"
        yield recipe.problem("objective.weight", expected=expected, mend="keep one of them, or write a number")
    if rule.confidence is None:
        return
    found = "nothing, which is {confidence: 0.999} for cross-domain" if objective.weight is None else None
    if objective.divergence_name not in ("reverse-kl", "forward-kl"):
        expected = (
            f"a number: only reverse-kl and forward-kl turn a confidence into one, not {objective.divergence_name}"
        )
    elif objective.divergence_name == "forward-kl" and objective.temperature != 1:
        expected = "a number: forward-kl turns a confidence into one at temperature 1 only"
    elif recipe.data.train is None:
        expected = "a number: a confidence weighs the reference against labels, and there are none"
    else:
        return
    yield recipe.problem("objective.weight", found=found, expected=expected, mend="write objective.weight: 1.0, say")


def _training_faults(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    for ours, other in (("epochs", "max_steps"), ("batch_size", "tokens_per_batch")):
        given = [name for name in (ours, other) if getattr(training, name) is not None]
        if len(given) != 1:
            place = f" ({ours} stands at {recipe.where(f'training.{ours}')})" if given else ""
            field = f"training.{other if given else ours}"
            yield recipe.problem(field, expected=f"either {ours} or {other}{place}", mend="keep exactly one of the two")
    if training.passed:
        yield from _passed_faults(recipe)


# ── The fields that are passed to transformers.TrainingArguments ─────────────────────────────────────────────────────

_VOID = {
    "label_smoothing_factor": "the loss is keeltune's formula, which has no smoothing",
    "use_liger_kernel": "the loss is not computed inside the model",
    "liger_kernel_config": "the loss is not computed inside the model",
    "average_tokens_across_devices": "predictions are always counted over all processes",
    "train_sampling_strategy": "a step is always made of rows of similar length",
    "group_by_length": "a step is always made of rows of similar length",
    "length_column_name": "a step is always made of rows of similar length",
    "auto_find_batch_size": "the plan of steps does not change while it runs",
    "remove_unused_columns": "a batch holds what the task puts there",
    "label_names": "a batch holds what the task puts there",
    "dataloader_drop_last": "no row is ever dropped",
    "dataloader_in_order": "the order of rows is a function of the seed and the epoch",
    "accelerator_config": "keeltune makes the batches",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "include_num_input_tokens_seen": "result.json has the tokens a second",
    "include_for_metrics": "keeltune has its own evaluation",
    "prediction_loss_only": "keeltune has its own evaluation",
    "batch_eval_metrics": "keeltune has its own evaluation",
    "load_best_model_at_end": "the best model is always kept, by the task's first metric",
    "metric_for_best_model": "the best model is always kept, by the task's first metric",
    "greater_is_better": "the best model is always kept, by the task's first metric",
    "ignore_data_skip": "a resumed run goes on where it stopped, to the bit",
    "save_only_model": "a checkpoint must be able to resume",
    "disable_tqdm": "keeltune shows its own progress",
    "local_rank": "torchrun sets it",
    "push_to_hub": "keeltune uploads nothing; the run's model folder is there to be uploaded",
    "parallelism_config": "sharding is not built yet",
    "fsdp": "sharding is not built yet",
    "deepspeed": "sharding is not built yet",
    "hub_": "keeltune uploads nothing, and a recipe holds no secret",
    "ddp_": "keeltune sets up the processes",
    "do_": "the command says what is done",
    "eval_": "keeltune has its own evaluation, with evaluation.every",
}
"""Fields of TrainingArguments (or how some of them start) that a run would have to ignore, with the reason."""

_OURS = {
    "output_dir": "output",
    "overwrite_output_dir": "the option --overwrite",
    "resume_from_checkpoint": "the option --resume",
    "num_train_epochs": "training.epochs",
    "lr": "training.learning_rate",
    "scheduler": "training.lr_scheduler_type",
    "warmup_ratio": "training.warmup_steps (below 1 it is a share of all steps)",
    "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.batch_size",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "bf16_full_eval": "training.precision",
    "fp16_full_eval": "training.precision",
    "data_seed": "training.seed",
    "eval_strategy": "evaluation.every",
    "evaluation_strategy": "evaluation.every",
    "eval_steps": "evaluation.every",
    "peft_config": "training.lora",
}
"""Fields of other programs, with ours that says the same."""

_UNFIT = ("reduce_lr_on_plateau", "greedy", "best")
"""Choices that need the stock Trainer's own evaluation."""
_MORE_THAN_ZERO = ("save_steps", "logging_steps", "save_total_limit", "adam_epsilon", "dataloader_prefetch_factor")


def _passed_faults(recipe: Recipe) -> Iterator[Problem]:
    """The passed fields, first one by one, then together by making the TrainingArguments themselves."""
    from transformers import TrainingArguments  # here, since it takes seconds and few recipes pass anything

    hints = get_type_hints(TrainingArguments)
    good: dict[str, Any] = {}
    for name, value in recipe.training.passed.items():
        fault = _name_fault(name, hints) or _value_fault(name, value, hints[name])
        if fault:
            expected, mend = fault
            yield recipe.problem(f"training.{name}", found=seen(value), expected=expected, mend=mend)
        else:
            good[name] = value

    if not good:
        return

    class Arguments(TrainingArguments):
        @property
        def device(self) -> Any:
            """None: to look for the device would start the process group."""

    try:
        with warnings.catch_warnings(action="ignore"):
            _try_schedule(Arguments(output_dir=recipe.output, **good))
    except Exception as error:  # whatever it is, it is how the library refuses these values
        reason = " ".join(str(error).split())
        named = [name for name in good if re.search(rf"\b{name}\b", reason)]
        field = next(name for name in (*named, "lr_scheduler_kwargs", "lr_scheduler_type", *good) if name in good)
        expected, mend = f"what TrainingArguments accepts: {reason}", "change it, or leave it out"
        yield recipe.problem(f"training.{field}", expected=expected, mend=mend)


def _name_fault(name: str, known: Mapping[str, Any]) -> tuple[str, str] | None:
    if name in _OURS:
        return f"no {name}: keeltune has its own field for it", f"use {_OURS[name]}"
    for void, reason in _VOID.items():
        if name == void or (name.startswith(void) and name in known):
            return f"no {name}: {reason}", "leave it out"
    if name not in known:
        names = [*Training.model_fields, *(field for field in known if not _name_fault(field, known))]
        expected = "a field of the recipe's training, or of transformers.TrainingArguments"
        return expected, f"leave it out{nearest(name, names)}"
    return None


def _value_fault(name: str, value: Any, hint: Any) -> tuple[str, str] | None:
    names = [choice for choice in _choices(name, hint) if choice not in _UNFIT]
    if names and value not in names:
        return f"one of: {', '.join(names)}", f"choose one of them{nearest(value, names)}"
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        return " or ".join(dict.fromkeys(map(expectation, error.errors()))), "write a value of that kind"
    if isinstance(value, (int, float)) and (not math.isfinite(value) or value < 0):
        return "a finite number that is not negative", f"change {name}"
    if name in _MORE_THAN_ZERO and value == 0:
        return "a number greater than 0", f"change {name}"
    if name in ("adam_beta1", "adam_beta2") and value >= 1:
        return "a number less than 1", f"change {name}"
    return _tracker_fault(value) if name == "report_to" else None


def _choices(name: str, hint: Any) -> list[str]:
    """The words that a field of TrainingArguments takes, where it takes only some."""
    from transformers import TrainingArguments

    for kind in get_args(hint):
        if inspect.isclass(kind) and issubclass(kind, enum.Enum):
            return [str(choice.value) for choice in kind]
    return list(TrainingArguments.__dataclass_fields__[name].metadata.get("choices", ()))


def _tracker_fault(value: Any) -> tuple[str, str] | None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK as KNOWN
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    names = [value] if isinstance(value, str) else value or []
    for name in (name for name in names if name not in ("none", "all")):
        if name not in KNOWN:
            return f"none, all, or one of: {', '.join(KNOWN)}", f"choose one of them{nearest(name, KNOWN)}"
        if name not in get_available_reporting_integrations():
            return f"a tracker that is installed: {name} is not", f"install {name}, or leave it out"
    return None


def _try_schedule(arguments: Any) -> None:
    """Make the learning-rate schedule once: its own keywords are checked nowhere else before training."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    extra = arguments.lr_scheduler_kwargs or {}
    get_scheduler(arguments.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=extra)


# ── pydantic's faults as problems ────────────────────────────────────────────────────────────────────────────────────

_STAND_INS = {"task": "text-classification", "method": "fine-tuning", "model": ".", "data": {}, "output": "."}
"""What replaces a required field at fault, so that the other fields are still checked against one another."""


def _validated(document: Document) -> tuple[Recipe, list[Problem], set[str]]:
    """The recipe, pydantic's faults, and the fields that stand-ins replace.

    Faulty values are taken out and the rest is read again, until a recipe stands: what remains is sound, so that the
    checks across fields run in the same go.
    """
    values = copy.deepcopy(document.values)
    faults: list[Problem] | None = None
    replaced: set[str] = set()
    while True:
        try:
            return Recipe.model_validate(values), faults or [], replaced
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if faults is None:
            faults = [_fault(e, document) for e in errors]
        for e in errors:
            _take_out(values, _steps(e, document))
        for name, stand_in in _STAND_INS.items():
            if name not in values:
                values[name] = stand_in
                replaced.add(name)


def _steps(error: ErrorDetails, document: Document) -> Key:
    """The field of an error, without the branches of unions that pydantic puts on the way."""
    field: Key = ()
    for step in error["loc"]:
        is_branch = step == "[key]" or str(step).startswith("‹")
        if not is_branch or step in document.entries(field):
            field += (step,)
    return field


def _take_out(values: dict[str, Any], steps: Key) -> None:
    """Delete the innermost entry of a mapping on the way to a fault."""
    holder: Any = values
    key, inner = steps[0], holder
    for step in steps:
        if isinstance(inner, list):
            inner = inner[int(step)]
            continue
        names = {str(name): name for name in inner} if isinstance(inner, dict) else {}  # pydantic makes text of some
        if str(step) not in names:
            break
        holder, key = inner, names[str(step)]
        inner = holder[key]
    holder.pop(key, None)


def _fault(error: ErrorDetails, document: Document) -> Problem:
    steps, kind = _steps(error, document), error["type"]
    if kind == "extra_forbidden":
        return _unknown(steps, document)
    about = _about(steps)
    if kind == "missing":
        name = ".".join(map(str, steps))
        return document.problem(steps, expected=f"a value{about}", mend=f"add {name}")
    value, expected, mend = error["input"], expectation(error), f"change it{about}"
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", expected)
        mend = f"choose one of them{nearest(value, choices)}"
        others = [kind.strip("‹›") for kind in _kinds(_annotation(steps)) if kind not in error["loc"]]
        expected = " or ".join([expected, *others])
    elif isinstance(value, str) and "text" not in expected and _is_number(value):
        mend = f"write it without quotes: {value.strip()}"
    elif isinstance(value, (bool, int, float)) and "text" in expected:
        mend = f'put it in quotes, if text is meant: "{str(value).lower()}"'
    elif isinstance(value, float) and kind.startswith("int_") and value.is_integer():
        mend = f"write {int(value)}"
    return document.problem(steps, found=seen(value), expected=expected, mend=mend, key=error["loc"][-1] == "[key]")


def _kinds(annotation: Any) -> Iterator[str]:
    """The kinds of value that a union takes."""
    for branch in get_args(annotation):
        tags = [str(mark.tag) for mark in getattr(branch, "__metadata__", ()) if isinstance(mark, Tag)]
        yield from tags or _kinds(branch)


def _unknown(steps: Key, document: Document) -> Problem:
    """A field that is not declared: the nearest beside it, else the same or the nearest name anywhere."""
    *parent, name = steps
    beside = list(_fields(tuple(parent)))
    elsewhere = {path[-1]: ".".join(path) for path in _all_fields() if path[-1] not in beside}
    if nearest(name, beside):
        mend = f"correct the name{nearest(name, beside)}"
    elif match := difflib.get_close_matches(str(name), elsewhere, n=1, cutoff=0.8):
        mend = f"write it as {elsewhere[match[0]]}"
    else:
        mend = "leave it out"
    expected = f"one of: {', '.join(beside)}"
    return document.problem(steps, found=shown(name), expected=expected, mend=mend, key=True)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fields(parent: Key = ()) -> dict[str, FieldInfo]:
    """The fields declared below `parent`, by their names in YAML."""
    models: list[type[BaseModel]] = [Recipe]
    for step in parent:
        field = {k: v for model in models for k, v in _by_yaml_name(model).items()}.get(str(step))
        models = list(_models(field.annotation)) if field else []
    return {name: field for model in models for name, field in _by_yaml_name(model).items()}


def _by_yaml_name(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models among the branches of an annotation."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _annotation(steps: Key) -> Any:
    field = _fields(steps[:-1]).get(str(steps[-1]))
    return field and field.annotation


def _about(steps: Key) -> str:
    """What a field is, in its own words or in those of the one around it."""
    for end in range(len(steps), 0, -1):
        field = _fields(steps[: end - 1]).get(str(steps[end - 1]))
        if field and field.description:
            return f" ({steps[end - 1]}: {field.description})"
    return ""


def _all_fields(parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in _fields(parent):
        yield (*parent, name)
        yield from _all_fields((*parent, name))


# ── The text ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_MOST_BYTES = 2**20
_MOST_VALUES = 10_000
_SPOKEN = {"yes", "no", "on", "off"}
"""Words that YAML 1.1 reads as true and false, and YAML 1.2 as text."""

_HINTS = {
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values are not allowed": 'put a text that holds ": " in quotes, and line the names up',
    "cannot start any token": "put the text in quotes",
    "another document": "keep one document: take out the line ---",
    "undefined alias": "put a text that starts with * in quotes",
}
_STANDARD = "tag:yaml.org,2002:"


class Document:
    """A recipe's text as plain values, with the place of each and the faults of the text itself."""

    def __init__(self, label: str):
        self.label = label
        self.values: dict[str, Any] = {}
        self.places: dict[Key, str] = {}
        self.key_places: dict[Key, str] = {}
        self.problems: list[Problem] = []

    def read(self, text: str) -> None:
        """Take over the values of a YAML text."""

        def place(mark: Any) -> str:
            return f"{self.label}:{mark.line + 1}:{mark.column + 1}"

        node = _composed(text, place, self.label)
        if not isinstance(node, MappingNode):
            found = "nothing" if node is None else "a single value, or a list"
            expected = "a mapping of fields: task, method, model, data, output, …"
            raise UserError(_fault_at(self.label, (), found, expected, "write a recipe as the README shows"))
        self.values = self._read(node, place, ()) or {}
        self.places[()] = self.label

    def take(self, values: Mapping[str, Any]) -> None:
        """Take over plain values, which have no lines."""
        self.values = {str(key): _plain(value) for key, value in values.items()}
        self.places[()] = self.label

    def override(self, assignment: str) -> None:
        """Set one field: "training.epochs=5". The value is YAML; mappings on the way are made where there are none."""
        name, equals, text = assignment.partition("=")
        label = f"override {assignment}" if len(assignment) <= 80 else f"override {assignment[:79]}…"
        steps: Key = tuple(name.strip().split("."))
        if not equals or not all(steps):
            example = "training.epochs=5"
            self.problems.append(_fault_at(label, (), shown(assignment), "field=value", f"write it as {example}"))
            return
        holder: Any = self.values
        for depth, step in enumerate(steps[:-1], 1):
            if holder.get(step) is None:
                holder[step] = {}
                self.places[steps[:depth]] = self.key_places[steps[:depth]] = label
            holder = holder[step]
            if not isinstance(holder, dict):
                above = ".".join(map(str, steps[:depth]))
                mend = f"write the whole of it: {above}={{{steps[depth]}: …}}"
                self.problems.append(_fault_at(label, steps, f"{above} is {seen(holder)}", "a mapping there", mend))
                return
        self.places = {key: place for key, place in self.places.items() if key[: len(steps)] != steps}
        self.key_places[steps] = label
        try:
            node = _composed(text, lambda mark: label, label)
        except UserError as error:
            self.problems += error.problems
            return
        holder[steps[-1]] = None if node is None else self._read(node, lambda mark: label, steps)
        self.places[steps] = label

    def _read(self, node: Node, place: Callable[[Any], str], field: Key) -> Any:
        try:
            return _Reader(self, place).value(node, field)
        except RecursionError:
            raise UserError(_too_deep(place(node.start_mark))) from None

    def where(self, key: Key) -> str:
        """The place of a field, or of the nearest one around it that is written."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.label)

    def problem(self, field: Key, *, expected: str, mend: str, found: str | None = None, key: bool = False) -> Problem:
        """A fault of `field`, or with `key` of its name."""
        place = self.key_places.get(field, self.label) if key else self.where(field)
        found = self._shown(field) if found is None else found
        return _fault_at(place, field, found, expected, mend)

    def key(self, field: str) -> Key:
        """The steps of a dotted field; a number is an entry of a list, or a name where the mapping holds it as one."""
        key: Key = ()
        for step in field.split(".") if field else ():
            key += (int(step) if step.isdecimal() and step not in self.entries(key) else step,)
        return key

    def _shown(self, field: Key) -> str:
        return seen(self.entries(field[:-1]).get(field[-1]) if field else self.values)

    def entries(self, field: Key) -> Mapping[str | int, Any]:
        """What lies below a field; nothing where it is a plain value or is not there."""
        value: Any = self.values
        for step in field:
            value = dict(enumerate(value)) if isinstance(value, list) else value
            value = value.get(step) if isinstance(value, dict) else None
        return dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}


class _Reader:
    """Nodes of YAML -> plain values; notes their places and what is wrong with them in the document."""

    def __init__(self, document: Document, place: Callable[[Any], str]):
        self.document = document
        self.place = place
        self.count = 0

    def value(self, node: Node, field: Key, key: Node | None = None) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES:  # aliases of aliases: ten lines can stand for 10^10 values
            found = f"more than {_MOST_VALUES} values, aliases (*name) written out"
            place = self.place(node.start_mark)
            expected, mend = f"{_MOST_VALUES} values at most", "write the values without aliases"
            raise UserError(_fault_at(place, field, found, expected, mend))
        is_block = getattr(node, "flow_style", None) is False
        is_left_out = isinstance(node, ScalarNode) and node.value == "" and node.style is None
        written = key if key is not None and (is_block or is_left_out) else node
        self.document.places[field] = self.place(written.start_mark)
        match node:
            case MappingNode() if node.tag == f"{_STANDARD}map":
                return self.mapping(node, field)
            case SequenceNode() if node.tag == f"{_STANDARD}seq":
                children: Any = node.value
                return [self.value(child, (*field, i)) for i, child in enumerate(children)]
            case ScalarNode():
                return self.scalar(node, field)
        return self.tag_fault(node, field)

    def mapping(self, node: MappingNode, field: Key) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        pairs: Any = node.value
        for name, child in pairs:
            key = self.scalar(name, (*field, name.value)) if isinstance(name, ScalarNode) else None
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                found = shown(key) if isinstance(name, ScalarNode) else "a list or a mapping"
                self.fault(
                    name, field, f"{found} as a name", "text or a whole number as a name", "put the name in quotes"
                )
            elif key in values:
                first = self.document.key_places[*field, key].rpartition(":")[0]
                self.fault(
                    name,
                    (*field, key),
                    f"{key} again",
                    f"each name once; it stands at {first} too",
                    "keep one of the two",
                )
            else:
                self.document.key_places[*field, key] = self.place(name.start_mark)
                values[key] = self.value(child, (*field, key), name)
        return values

    def scalar(self, node: ScalarNode, field: Key) -> Any:
        text, kind = node.value, str(node.tag).removeprefix(_STANDARD)
        if node.style is None and text.lower() in _SPOKEN:
            found = f"{text} without quotes, which YAML 1.1 reads as true or false and YAML 1.2 as text"
            mend = f'quote it: "{text}"; or write true or false'
            self.fault(node, field, found, "text in quotes, or true or false", mend)
            return text
        try:
            match kind:
                case "str" | "timestamp" | "merge" | "value":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return _whole(text)
                case "float":
                    return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            self.fault(node, field, shown(text), "a number that can be read", "write it in plain digits")
            return None
        return self.tag_fault(node, field)

    def tag_fault(self, node: Node, field: Key) -> None:
        found = f"the tag {shown(str(node.tag))}"
        self.fault(node, field, found, "plain values: a recipe runs no code", "take the tag out")

    def fault(self, node: Node, field: Key, found: str, expected: str, mend: str) -> None:
        self.document.problems.append(_fault_at(self.place(node.start_mark), field, found, expected, mend))


def _whole(text: str) -> int:
    """A whole number of YAML 1.2: 12, -3, 1_000, 0x1F, 0o17; a leading 0 alone changes nothing."""
    text = text.replace("_", "")
    digits = text.lstrip("+-")
    number = int(digits, 0) if digits[:2] in ("0x", "0o", "0b") else int(digits)
    return -number if text.startswith("-") else number


def _composed(text: str, place: Callable[[Any], str], label: str) -> Node | None:
    """The nodes of a YAML text: no value is made and no tag is obeyed."""
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = " ".join(str(part) for part in (error.problem, error.context and f"({error.context})") if part)
        mend = next((hint for sign, hint in _HINTS.items() if sign in found), "mend the text there, or just before it")
        problem = _fault_at(place(mark) if mark else label, (), found, "YAML", mend)
    except YAMLError as error:
        found, mend = str(error).splitlines()[0], "take the character out"
        problem = _fault_at(label, (), found, "YAML in plain characters", mend)
    except RecursionError:
        problem = _too_deep(label)
    raise UserError(problem)


def _fault_at(place: str, field: Key, found: str, expected: str, mend: str) -> Problem:
    """A problem whose every part can be shown: a recipe's names may hold what would drive a terminal."""
    name = ".".join(map(str, field))
    return Problem(_printable(place), _printable(name), _printable(found), _printable(expected), _printable(mend))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _too_deep(place: str) -> Problem:
    mend = "write it out, without an alias inside its own value"
    return _fault_at(place, (), "values inside values that do not end", "a recipe: three or four levels", mend)


def seen(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    return "nothing" if value is None else shown(value)


def _plain(value: Any) -> Any:
    """Python's values as YAML would give them."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


def yaml_of(values: dict[str, Any]) -> str:
    """Plain values as YAML that reads back as the same values."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 2**31  # no line is folded
    yaml.dump(_quoted(values), stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    """Words that two versions of YAML read differently, in quotes."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_quoted(v) for v in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and value.lower() in _SPOKEN else value


def text_of(path: Path) -> str:
    """The text of a recipe's file; what is no recipe is refused, naming the path that was tried in full."""
    try:
        with path.open("rb") as file:
            return _decoded(file.read(_MOST_BYTES + 1), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        found = getattr(error, "strerror", None) or str(error)
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        mend = f"give the path of a recipe{nearest(path.name, beside)}"
        problem = _fault_at(str(path.absolute()), (), found, "a recipe: a YAML file that can be read", mend)
        raise UserError(problem) from None


def _decoded(raw: bytes, label: str) -> str:
    found, place = "", label
    if len(raw) > _MOST_BYTES:
        found = f"more than {_MOST_BYTES} bytes"
    elif raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        found = "UTF-16 text"
    elif b"\0" in raw:
        found = "a binary file (it holds NUL bytes)"
    else:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            found = f"byte 0x{raw[error.start]:02x} at offset {error.start}, which is not UTF-8"
            place = f"{label}:{raw.count(10, 0, error.start) + 1}"
    raise UserError(_fault_at(place, (), found, "a recipe: YAML in UTF-8", "save the recipe as UTF-8 text"))
