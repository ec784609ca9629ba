"""YAML's nodes -> plain values: no tag is obeyed, and every value knows where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from keeltune.utils.errors import Problem, UserError, shown

Key = tuple[str | int, ...]
"""A field as its steps: ("data", "columns", "text")."""

_MOST_VALUES = 10_000

DEEPEST = 200
"""Brackets inside each other at most: a recipe has three or four, a chat template in it a few more."""

AMBIGUOUS = {"yes", "no", "on", "off"}
"""Words that YAML 1.1 reads as true and false, and YAML 1.2 as text."""

_HINTS = {
    "'\\t'": "indent with spaces, not with tabs",
    "mapping values are not allowed": 'put a text that holds ": " in quotes, and line the names up',
    "cannot start any token": "put the text in quotes",
    "another document": "keep one document: take out the line ---",
    "undefined alias": "put a text that starts with * in quotes",
}

_STANDARD = "tag:yaml.org,2002:"


class YamlReader:
    """Nodes of YAML -> plain values, with the location of each value and each name, and what is wrong with them.

    `locate`: from a mark of the YAML library to a location such as "recipe.yaml:7:10".
    """

    def __init__(self, locate: Callable[[Any], str]):
        self.locate = locate
        self.locations: dict[Key, str] = {}
        self.name_locations: dict[Key, str] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def read(self, node: Node, field: Key) -> Any:
        """The plain value of a node that is `field`. Raises UserError for values that do not end."""
        try:
            return self.value(node, field)
        except RecursionError:
            raise UserError(_too_deep(self.locate(node.start_mark))) from None

    def value(self, node: Node, field: Key, key: Node | None = None) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES:  # aliases of aliases: ten lines can stand for 10^10 values
            found = f"more than {_MOST_VALUES} values, aliases (*name) written out"
            where = self.locate(node.start_mark)
            expected, fix = f"{_MOST_VALUES} values at most", "write the values without aliases"
            raise UserError(fault_at(where, field, found, expected, fix))
        is_block = getattr(node, "flow_style", None) is False
        is_left_out = isinstance(node, ScalarNode) and node.value == "" and node.style is None
        written = key if key is not None and (is_block or is_left_out) else node
        self.locations[field] = self.locate(written.start_mark)
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
                first = self.name_locations[*field, key].rpartition(":")[0]
                self.fault(
                    name,
                    (*field, key),
                    f"{key} again",
                    f"each name once; it stands at {first} too",
                    "keep one of the two",
                )
            else:
                self.name_locations[*field, key] = self.locate(name.start_mark)
                values[key] = self.value(child, (*field, key), name)
        return values

    def scalar(self, node: ScalarNode, field: Key) -> Any:
        text, kind = node.value, str(node.tag).removeprefix(_STANDARD)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fault(node, field, shown(text), "whole characters: half a one has no bytes", "write the text again")
            return text.encode("utf-8", "backslashreplace").decode()
        if node.style is None and text.lower() in AMBIGUOUS:
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
        self.problems.append(fault_at(self.locate(node.start_mark), field, found, expected, fix))


def _whole(text: str) -> int:
    """A whole number of YAML 1.2: 12, -3, 1_000, 0x1F, 0o17; a leading 0 alone changes nothing."""
    text = text.replace("_", "")
    digits = text.lstrip("+-")
    number = int(digits, 0) if digits[:2] in ("0x", "0o", "0b") else int(digits)
    return -number if text.startswith("-") else number


def composed(text: str, locate: Callable[[Any], str], label: str) -> Node | None:
    """The nodes of a YAML text: no value is made and no tag is obeyed."""
    if _depth(text) > DEEPEST:  # of which the scanner looks at each one for each character behind it
        raise UserError(_too_deep(label))
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = " ".join(str(part) for part in (error.problem, error.context and f"({error.context})") if part)
        fix = next((hint for sign, hint in _HINTS.items() if sign in found), "mend the text there, or just before it")
        problem = fault_at(locate(mark) if mark else label, (), found, "YAML", fix)
    except YAMLError as error:
        found, fix = str(error).splitlines()[0], "take the character out"
        problem = fault_at(label, (), found, "YAML in plain characters", fix)
    except RecursionError:
        problem = _too_deep(label)
    raise UserError(problem)


def _depth(text: str) -> int:
    """How many brackets of a text are open at once, at most; a stray one in a text counts too."""
    steps = (1 if found in "[{" else -1 for found in re.findall(r"[][{}]", text))
    return max(accumulate(steps, initial=0))


def fault_at(where: str, field: Key, found: str, expected: str, fix: str) -> Problem:
    """A problem of a recipe's field."""
    return Problem(where, ".".join(map(str, field)), found, expected, fix)


def _too_deep(where: str) -> Problem:
    fix = "write it out, without an alias inside its own value"
    return fault_at(where, (), "values inside values that do not end", "a recipe: three or four levels", fix)
