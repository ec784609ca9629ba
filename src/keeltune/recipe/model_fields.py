"""The fields of `model`: a folder or hub id, layers of a teacher, or a new model with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, NonNegativeInt, PositiveInt, Tag

from keeltune.recipe.field_types import AsList, AsMapping, AsNumber, AsText, ByKind, Declared, Text, kind

Layers = Annotated[AsNumber[PositiveInt] | AsList[NonNegativeInt], ByKind]


ChosenLayers = int | Sequence[int] | Mapping[str, int | Sequence[int] | None]
"""Layers of each stack: how many, which, or either by "encoder" and "decoder" (None: all)."""


class StackLayers(Declared):
    """The layers of each stack of an encoder-decoder; a stack that is not named keeps all of its own."""

    encoder: Layers | None = Field(default=None, description="Those of the encoder: how many, or the list of them.")
    decoder: Layers | None = Field(default=None, description="Those of the decoder: how many, or the list of them.")


class StudentFrom(Declared):
    """A smaller student, made of some layers of a teacher."""

    teacher: Text = Field(alias="from", description="The model that the layers are taken from: a folder or a hub id.")
    layers: Annotated[AsNumber[PositiveInt] | AsList[NonNegativeInt] | AsMapping[StackLayers], ByKind] = Field(
        description="How many layers, spread evenly over the teacher's; or the list of them, counted from 0; or "
        "{decoder: 2}: those of one stack, the other one whole."
    )

    @property
    def chosen_layers(self) -> ChosenLayers:
        """What is chosen of each stack: of all of them the same, or by "encoder" and "decoder"."""
        return self.layers.model_dump() if isinstance(self.layers, StackLayers) else self.layers


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


def _model_kind(value: Any) -> str:
    if isinstance(value, (dict, BaseModel)):
        new = isinstance(value, NewModel) or (isinstance(value, dict) and "new" in value)
        return "‹{new, tokenizer}›" if new else "‹{from, layers}›"
    return kind(value)


Model = Annotated[
    AsText | Annotated[StudentFrom, Tag("‹{from, layers}›")] | Annotated[NewModel, Tag("‹{new, tokenizer}›")],
    Discriminator(_model_kind),
]
"""What `model` takes."""
