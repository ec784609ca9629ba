"""A recipe: its sections, and what they say together of a run.

Each field is declared once, here or with its section (`model_fields` … `generation_fields`), with its type, default and
description: the YAML, the command's help, the JSON Schema and the reference page are made from these declarations.
"""

from __future__ import annotations

import copy
import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt, PrivateAttr

from keeltune.recipe.data_fields import Data
from keeltune.recipe.evaluation_fields import Evaluation
from keeltune.recipe.field_types import AsList, AsMapping, AsText, ByKind, Declared, Section, Text
from keeltune.recipe.generation_fields import Generation, Languages, Prompt, plain
from keeltune.recipe.model_fields import Model, NewModel, StudentFrom
from keeltune.recipe.objective_fields import ObjectiveSpec, WeightRule
from keeltune.recipe.paths import absolute, change_paths, shared
from keeltune.recipe.reference_fields import RULES, ReferenceSpec
from keeltune.recipe.regularizer_fields import describe_regularizers
from keeltune.recipe.task_names import TaskName
from keeltune.recipe.training_fields import Training
from keeltune.recipe.yaml_document import Document
from keeltune.recipe.yaml_text import yaml_of
from keeltune.utils import registry
from keeltune.utils.errors import Problem
from keeltune.utils.messages import languages

Method = Literal["fine-tuning", "distillation", "cross-domain"]


class Report(Declared):
    """The HTML report of a run."""

    language: Literal[languages()] = Field(default="en", description="Its language.")  # type: ignore[valid-type]
    texts: bool = Field(
        default=True,
        description="Whether it shows texts and pictures of the scored rows, a few of each kind, cut where they are "
        "long; false: their numbers alone, for data that may not leave its file.",
    )
    sections: list[Text] = Field(
        default_factory=list, description="Further sections of the page: my_package.my_module:MySection."
    )


class Recipe(Declared):
    """A run of keeltune: what to learn, from what, held near what, and where to write it."""

    task: TaskName = Field(
        description="What is predicted: a name of `keeltune/tasks/`, another that is common for it (ner, qa, asr), or "
        "my_package.my_module:MyTask."
    )
    method: Method = Field(
        description="fine-tuning (no reference), distillation (a teacher), cross-domain (its old self)."
    )
    model: Model = Field(
        description="The student: a folder or hub id; {from: TEACHER, layers: 2}; or {new: {...}, tokenizer}."
    )
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
    prompt: Prompt | None = Field(
        default=None,
        description="What a model that writes reads of a row: text with columns in braces, as in "
        "'Say it shortly: {document}', or messages [{role, content}] for its chat template; a brace that is meant as "
        "one is written twice. null: what the model was taught with (it is saved with it); else the task's own "
        "instruction, in the model's chat template if it has one (decoders), or the text (encoder-decoders).",
    )
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

    def command(self, verb: str, *options: str) -> str | None:
        """The command that does something with this recipe, overrides and all; None where it was read from no file."""
        file = self._document.file
        if file is None:
            return None
        return shlex.join(["keeltune", verb, str(file), *self._document.overrides, *options])

    def where(self, field: str = "") -> str:
        """The location of a dotted field: `recipe.where("data.train") -> "recipe.yaml:7:10"`."""
        return self._document.where(self._document.key(field))

    def problem(self, field: str, *, expected: str, fix: str, found: str | None = None) -> Problem:
        """A fault of `field`, at its location; `found` is the field's value by default."""
        return self._document.problem(self._document.key(field), expected=expected, fix=fix, found=found)

    @property
    def understood(self) -> str | None:
        """What `task` was read as, in words, where the recipe has another name for it."""
        written = self._document.values.get("task", self.task)
        return None if written == self.task else f"task: {written} is read as {self.task}"

    @property
    def asked(self) -> str | list[dict[str, str]] | None:
        """`prompt` as plain JSON: a text, or messages."""
        return plain(self.prompt)

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
        on_labels = self.method == "cross-domain" and self.anchors_target and self.objective.anchor_head == "task"
        return WeightRule(confidence=0.999) if on_labels else 1.0

    @property
    def anchors_target(self) -> bool:
        """Whether rows of the domain that is learnt carry D; with a teacher all rows do."""
        return self.method == "distillation" or (
            self.method == "cross-domain" and self.objective.anchor_on in ("target", "both")
        )

    @property
    def keeps_source_model(self) -> bool:
        """Whether what the model knew is to be kept."""
        return self.method == "cross-domain"

    @property
    def anchors_source(self) -> bool:
        """Whether inputs of the source domain carry D."""
        return self.method == "cross-domain" and self.objective.anchor_on in ("source", "both")

    @property
    def anchors_generated(self) -> bool:
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
    def has_teacher(self) -> bool:
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

    def dump(self, folder: Path | None = None) -> str:
        """YAML that makes this run again: every value, the defaults too. Paths are absolute, so that it does from any
        folder; with `folder` as `paths.shared` writes them for a file that lies there."""
        return yaml_of(self.written(folder))

    def written(self, folder: Path | None = None) -> dict[str, Any]:
        """The values of `dump`, before they are YAML."""
        values: dict[str, Any] = _written(self)
        values["data"]["mix"] = self.data.mix.model_dump(exclude_unset=True)
        values = copy.deepcopy(values)
        change_paths(values, self._is_local, lambda field, value: self._named(value, folder))
        values["data"] = {name: value for name, value in values["data"].items() if value != {}}
        return values

    def _named(self, value: str, folder: Path | None) -> str:
        path = self.path(value)
        return str(absolute(path)) if folder is None else shared(path, folder)

    def _is_local(self, value: str) -> bool:
        """Whether a model's name is a path, not a hub id."""
        return value[0] in "./~" or self.path(value).exists()

    def inputs(self) -> list[tuple[str, str]]:
        """The paths that the run reads, each with its dotted field."""
        found: list[tuple[str, str]] = []

        def note(field: str, value: str) -> str:
            if field not in ("output", "reference.cache"):
                found.append((field, value))
            return value

        change_paths(copy.deepcopy(_written(self)), self._is_local, note)
        return found


def _written(model: Any) -> Any:
    """A model's values under their YAML names, and those of the models in a list; a null is left out where it is the
    default. What is no model is written as it is."""
    if isinstance(model, list):
        return [_written(value) for value in model]
    if not isinstance(model, BaseModel):
        return model
    values: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None or field.default is not None:
            values[field.alias or name] = _written(value)
    return values | (model.model_extra or {})


def json_schema() -> dict[str, Any]:
    """The recipe as JSON Schema, from which an editor completes and checks a recipe as it is typed."""
    schema = Recipe.model_json_schema(by_alias=True)
    schema["properties"]["task"]["examples"] = registry.names("tasks")
    schema["$defs"]["Data"]["properties"]["format"]["examples"] = registry.names("file_formats")
    schema["$defs"]["ReferenceSpec"]["properties"]["from"]["examples"] = [*RULES, *registry.names("references")]
    of_objective = schema["$defs"]["ObjectiveSpec"]["properties"]
    of_objective["divergence"]["examples"] = registry.names("divergences")
    describe_regularizers(schema["$defs"])
    of_objective["matching"]["examples"] = [{name: 1.0} for name in registry.names("matching")]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
