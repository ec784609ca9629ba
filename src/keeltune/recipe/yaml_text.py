"""The text of a recipe's file, read and written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from keeltune.recipe.yaml_values import AMBIGUOUS, fault_at
from keeltune.utils.errors import UserError, nearest
from keeltune.utils.files import open_regular

_MOST_BYTES = 2**20


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
    return DoubleQuotedScalarString(value) if isinstance(value, str) and value.lower() in AMBIGUOUS else value


def text_of(path: Path) -> str:
    """The text of a recipe's file; what is no recipe is refused, naming the path that was tried in full."""
    try:
        with open_regular(path) as file:
            raw = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        neighbours = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        fix = f"give the path of a recipe{nearest(path.name, neighbours)}"
        problem = fault_at(str(path.absolute()), (), found, "a recipe: a YAML file that can be read", fix)
        raise UserError(problem) from None
    return _decoded(raw, str(path))


def _decoded(raw: bytes, label: str) -> str:
    found, where = "", label
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
            where = f"{label}:{raw.count(10, 0, error.start) + 1}"
    raise UserError(fault_at(where, (), found, "a recipe: YAML in UTF-8", "save the recipe as UTF-8 text"))
