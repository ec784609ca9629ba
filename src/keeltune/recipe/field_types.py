"""The kinds of value that a recipe's fields take: text, numbers, lists, mappings, and unions of these told apart."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PositiveFloat, Tag
from pydantic_core import ErrorDetails

# A field that takes several kinds of value is a union told apart by the kind of what was found, so that a fault names
# one field and one expectation, not one for each branch.

T = TypeVar("T")

_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}


def kind(value: Any) -> str:
    return f"‹{_KINDS.get(type(value), 'a mapping')}›"


def _word_or_kind(word: str) -> Discriminator:
    """Tells the kinds apart where of all texts only `word` is taken."""
    return Discriminator(lambda value: f"‹{word}›" if isinstance(value, str) else kind(value))


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

Each = Annotated[list[PositiveFloat], Tag("‹a list›")]

AsMapping = Annotated[T, Tag("‹a mapping›")]

ByKind = Discriminator(kind)

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
