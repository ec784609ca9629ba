"""The fields of `objective`, the formula's second term: its weight, its divergence, what carries it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat

from keeltune.recipe.field_types import AsMapping, AsNumber, AsText, ByKind, Declared, Section, Text


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

    name: Text = Field(description="A name of `keeltune/objective/divergences/`, or my_package.my_module:function.")


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
        description="Extra terms of a distillation and their weights: names of `keeltune/objective/matching/`, such as "
        "{hidden-states: 1.0}.",
    )

    @property
    def divergence_name(self) -> str:
        return self.divergence if isinstance(self.divergence, str) else self.divergence.name

    @property
    def divergence_parameters(self) -> dict[str, float]:
        return {} if isinstance(self.divergence, str) else dict(self.divergence.__pydantic_extra__)
