"""A recipe as it was written: plain values, where each stands, and the faults of the text itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.nodes import MappingNode, Node

from keeltune.recipe.yaml_values import Key, YamlReader, composed, fault_at
from keeltune.utils.errors import Problem, UserError, brief, shown


class Document:
    """A recipe's text as plain values, with the location of each and the faults of the text itself."""

    def __init__(self, label: str):
        self.label = label
        self.values: dict[str, Any] = {}
        self.locations: dict[Key, str] = {}
        self.name_locations: dict[Key, str] = {}
        self.problems: list[Problem] = []
        self.file: Path | None = None
        self.overrides: list[str] = []

    def read(self, text: str) -> None:
        """Take over the values of a YAML text."""

        def locate(mark: Any) -> str:
            return f"{self.label}:{mark.line + 1}:{mark.column + 1}"

        node = composed(text, locate, self.label)
        if not isinstance(node, MappingNode):
            found = "nothing" if node is None else "a single value, or a list"
            expected = "a mapping of fields: task, method, model, data, output, …"
            raise UserError(fault_at(self.label, (), found, expected, "write a recipe as the README shows"))
        self.values = self._read(node, locate, ()) or {}
        self.locations[()] = self.label

    def take(self, values: Mapping[str, Any]) -> None:
        """Take over plain values, which have no lines."""
        self.values = {_plain(str(key)): _plain(value) for key, value in values.items()}
        self.locations[()] = self.label

    def override(self, assignment: str) -> None:
        """Set one field: "training.epochs=5". The value is YAML; mappings on the way are made where there are none."""
        self.overrides.append(assignment)
        name, equals, text = assignment.partition("=")
        label = f"override {brief(assignment)}"
        steps: Key = tuple(name.strip().split("."))
        if not equals or not all(steps):
            example = "training.epochs=5"
            self.problems.append(fault_at(label, (), shown(assignment), "field=value", f"write it as {example}"))
            return
        mapping: Any = self.values
        for depth, step in enumerate(steps[:-1], 1):
            if mapping.get(step) is None:
                mapping[step] = {}
                self.locations[steps[:depth]] = self.name_locations[steps[:depth]] = label
            mapping = mapping[step]
            if not isinstance(mapping, dict):
                above = ".".join(map(str, steps[:depth]))
                fix = f"write the whole of it: {above}={{{steps[depth]}: …}}"
                self.problems.append(fault_at(label, steps, f"{above} is {seen(mapping)}", "a mapping there", fix))
                return
        self.locations = {key: where for key, where in self.locations.items() if key[: len(steps)] != steps}
        self.name_locations[steps] = label
        try:
            node = composed(text, lambda mark: label, label)
        except UserError as error:
            self.problems += error.problems
            return
        mapping[steps[-1]] = None if node is None else self._read(node, lambda mark: label, steps)
        self.locations[steps] = label

    def _read(self, node: Node, locate: Callable[[Any], str], field: Key) -> Any:
        reader = YamlReader(locate)
        value = reader.read(node, field)
        self.locations |= reader.locations
        self.name_locations |= reader.name_locations
        self.problems += reader.problems
        return value

    def where(self, key: Key) -> str:
        """The location of a field, or of the nearest one around it that is written."""
        while key and key not in self.locations:
            key = key[:-1]
        return self.locations.get(key, self.label)

    def problem(self, field: Key, *, expected: str, fix: str, found: str | None = None, key: bool = False) -> Problem:
        """A fault of `field`, or with `key` of its name."""
        where = self.name_locations.get(field, self.label) if key else self.where(field)
        found = self._shown(field) if found is None else found
        return fault_at(where, field, found, expected, fix)

    def key(self, field: str) -> Key:
        """The steps of a dotted field; a number is an entry of a list, or a name where the mapping holds it as one.

        A name may have dots itself: `objective.matching.my_package.my_module:Name` is three steps.
        """
        key: Key = ()
        steps = field.split(".") if field else []
        while steps:
            entries = self.entries(key)
            count = next((n for n in range(len(steps), 1, -1) if ".".join(steps[:n]) in entries), 1)
            step, steps = ".".join(steps[:count]), steps[count:]
            key += (int(step) if step.isdecimal() and step not in entries else step,)
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


def seen(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    return "nothing" if value is None else shown(value)


def _plain(value: Any) -> Any:
    """Python's values as YAML would give them: halves of characters, which it cannot hold, are spelt out."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    value = str(value) if isinstance(value, os.PathLike) else value
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
