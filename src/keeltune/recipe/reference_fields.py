"""The fields of `reference`: the distribution that the student is held near, and how it is reached."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from keeltune.recipe.field_types import AsList, AsNumber, AsText, ByKind, Declared, Each, Text
from keeltune.utils import registry

RULES = ("auto", "online")
"""What `from` may say besides the name of a reference: rules that choose one of those that answer by the models."""

MODELS = frozenset({"models"})


class ReferenceSpec(Declared):
    """The distribution that the student is held near, with how it is reached."""

    model: Annotated[AsText | AsList[Text], ByKind] | None = Field(
        default=None, description="A folder or hub id, or a list of them (their probabilities are averaged)."
    )
    origin: Text = Field(
        default="auto",
        alias="from",
        description="Where its answers come from: online, beside the student; cached, computed once, ahead of "
        "training; served, computed once by a server; adapter-off: the student without its adapter; auto: what "
        "measured costs choose, without changing what is trained; or any name of `keeltune/objective/references/`, or "
        "my_package.my_module:Name.",
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
    held: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="How the weights of its models are held; bf16 needs half the memory, and D is computed in float32 "
        "all the same. auto: fp32; an adapter on the student's own base (`training.lora`) as that base is, which both "
        "then hold once.",
    )
    dtype: Literal["auto", "float32", "float16", "int8"] = Field(
        default="auto",
        description="How a cached number is kept; auto: float32 (top-k: float16; hidden: as the model has it).",
    )

    @property
    def needs(self) -> frozenset[Any]:
        """What its answers are made of: `Reference.needs` of the class that `from` names.

        The class is imported for it (and torch with it); the rules need the models and nothing is imported.
        """
        return MODELS if self.origin in RULES else registry.find("references", self.origin).needs

    def temperatures(self, count: int) -> list[float]:
        """The temperature of each of `count` models."""
        return self.temperature if isinstance(self.temperature, list) else [self.temperature or 1.0] * count
