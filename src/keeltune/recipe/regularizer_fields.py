"""What a recipe may say of regularisers: the names of the shelf `training/regularizers/`, each with its own value.

The file that a name stands for declares what its value is and describes it. It imports torch, as what trains does;
reading a recipe must not. So the names are read from the folder, and a file is imported only when a recipe names it (it
will train with it), or where all of them are described: the JSON Schema and the reference page. A name from
outside the package is not imported while a recipe is only read, since the folder of a finished run holds recipes too:
`training/regularization.py` looks for it, and checks its value, when the data is prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from keeltune.recipe.field_types import Declared
from keeltune.utils import registry

SHELF = "regularizers"


def regularizer_names() -> list[str]:
    """The names of the shelf, as a recipe writes them."""
    return [name.replace("-", "_") for name in registry.names(SHELF)]


def find_regularizer(name: str) -> Any:
    """The class that `name` stands for, of the shelf or from outside. Raises LookupError."""
    return registry.find(SHELF, name if ":" in name else name.replace("_", "-"))


def declaration(names: Sequence[str]) -> type[BaseModel]:
    """A closed model whose fields are the regularisers `names`, as their files declare them."""
    fields: dict[str, Any] = {}
    for name in names:
        kind = find_regularizer(name)
        default = False if kind.parameter is bool else None
        declared = kind.parameter if kind.parameter is bool else kind.parameter | None
        fields[name] = (declared, Field(default=default, description=kind.description))
    return create_model("Regularizers", __base__=Declared, **fields)


class Regularizers(BaseModel):
    """Options against overfitting, all off by default; any of them together, with any method."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _by_their_files(cls, values: Any) -> Any:
        """Only those that are on; each value as its file declares it, an unknown name refused."""
        if not isinstance(values, dict):
            return values
        outside = {name: value for name, value in values.items() if isinstance(name, str) and ":" in name}
        known = regularizer_names()
        named = declaration([name for name in values if name in known])
        checked = named.model_validate({name: value for name, value in values.items() if name not in outside})
        read = {**dict(checked), **outside}
        order = sorted(read, key=lambda name: (":" in name, name))  # whatever the order in a recipe
        return {name: read[name] for name in order if read[name] is not None and read[name] is not False}

    @property
    def used(self) -> dict[str, Any]:
        """Those that are on, with their values."""
        return dict(self.model_extra or {})


def describe_regularizers(definitions: dict[str, Any]) -> None:
    """Completes the JSON Schema of `Regularizers` in a schema's `$defs`: the shelf's fields, and names from outside."""
    declared = declaration(regularizer_names()).model_json_schema()
    definitions |= declared.get("$defs", {})
    definitions["Regularizers"] |= {
        "properties": declared["properties"],
        "patternProperties": {"^.+:.+$": {"description": "A regulariser of your own: my_package.my_module:Name."}},
        "additionalProperties": False,
    }


class ShelfField:
    """A field as messages describe it; the file that declares it is imported when it is asked for either."""

    alias = None

    def __init__(self, name: str):
        self.name = name

    @property
    def annotation(self) -> Any:
        return find_regularizer(self.name).parameter

    @property
    def description(self) -> str:
        return find_regularizer(self.name).description
