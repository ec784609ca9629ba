"""The text of a recipe: plain values, the place of each, and the faults of the text itself.

Values are made from YAML's nodes, so that no tag is obeyed and every value knows its line.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from keeltune.utils.errors import Problem, UserError, nearest, shown

Key = tuple[str | int, ...]
"""A field as its steps: ("data", "columns", "text")."""

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
                fix = f"write the whole of it: {above}={{{steps[depth]}: …}}"
                self.problems.append(_fault_at(label, steps, f"{above} is {seen(holder)}", "a mapping there", fix))
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

    def problem(self, field: Key, *, expected: str, fix: str, found: str | None = None, key: bool = False) -> Problem:
        """A fault of `field`, or with `key` of its name."""
        place = self.key_places.get(field, self.label) if key else self.where(field)
        found = self._shown(field) if found is None else found
        return _fault_at(place, field, found, expected, fix)

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
            expected, fix = f"{_MOST_VALUES} values at most", "write the values without aliases"
            raise UserError(_fault_at(place, field, found, expected, fix))
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
            fix = f'quote it: "{text}"; or write true or false'
            self.fault(node, field, found, "text in quotes, or true or false", fix)
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

    def fault(self, node: Node, field: Key, found: str, expected: str, fix: str) -> None:
        self.document.problems.append(_fault_at(self.place(node.start_mark), field, found, expected, fix))


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
        fix = next((hint for sign, hint in _HINTS.items() if sign in found), "mend the text there, or just before it")
        problem = _fault_at(place(mark) if mark else label, (), found, "YAML", fix)
    except YAMLError as error:
        found, fix = str(error).splitlines()[0], "take the character out"
        problem = _fault_at(label, (), found, "YAML in plain characters", fix)
    except RecursionError:
        problem = _too_deep(label)
    raise UserError(problem)


def _fault_at(place: str, field: Key, found: str, expected: str, fix: str) -> Problem:
    """A problem whose every part can be shown: a recipe's names may hold what would drive a terminal."""
    name = ".".join(map(str, field))
    return Problem(_printable(place), _printable(name), _printable(found), _printable(expected), _printable(fix))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _too_deep(place: str) -> Problem:
    fix = "write it out, without an alias inside its own value"
    return _fault_at(place, (), "values inside values that do not end", "a recipe: three or four levels", fix)


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
            raw = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        fix = f"give the path of a recipe{nearest(path.name, beside)}"
        problem = _fault_at(str(path.absolute()), (), found, "a recipe: a YAML file that can be read", fix)
        raise UserError(problem) from None
    return _decoded(raw, str(path))


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
