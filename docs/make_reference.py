"""Writes docs/reference.md from the code: what it says of a field or an option is said where that is declared.

python docs/make_reference.py            write it
python docs/make_reference.py --check    exit 1 where it is not what the code says
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import keeltune as kt
from keeltune.cli.app import app
from keeltune.recipe.fields import json_schema
from keeltune.utils import errors, registry
from keeltune.utils.errors import KeeltuneError

FILE = Path(__file__).with_name("reference.md")


def reference() -> str:
    """The page, the same for the same code."""
    lines = [
        "# Reference",
        "",
        "Made from the code by `docs/make_reference.py`; do not edit it. [The formula](formula/index.md) and "
        "[the glossary](glossary.md) explain the terms.",
        "",
        "- [The command](#the-command)",
        "- [The recipe](#the-recipe)",
        "- [Tasks](#tasks), [metrics](#metrics), [divergences](#divergences), [matching](#matching), "
        "[references](#references)",
        "- [The library](#the-library)",
        "",
        *_commands(),
        *_recipe(),
        *_folder("Tasks", "tasks", "`task:` takes one of these names, or `my_package.my_module:MyTask`."),
        *_metrics(),
        *_folder(
            "Divergences",
            "divergences",
            "`objective.divergence` takes one of these names, or `my_package.my_module:function`; a parameter after "
            "`*` is written beside the name: `{name: jensen-shannon, beta: 0.5}`.",
        ),
        *_folder(
            "Matching",
            "matching",
            "`objective.matching` takes these names with a weight each: `{hidden-states: 1.0}`; for distillation.",
        ),
        *_folder(
            "References", "references", "What the student is held near; a recipe's `reference` chooses among them."
        ),
        *_library(),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield from ("## The command", "", *_table(("option", "meaning"), map(_option, group.params)))
    for name, command in group.commands.items():
        arguments = [p for p in command.params if not p.opts[0].startswith("-")]
        options = [p for p in command.params if p.opts[0].startswith("-")]
        shown = [f"{p.opts[0].upper()}{' …' if p.nargs == -1 else ''}" for p in arguments]
        call = " ".join([name, *(s if p.required else f"[{s}]" for s, p in zip(shown, arguments, strict=True))])
        yield from (f"### `keeltune {call}`", "", command.help, "")
        if command.params:
            yield from _table(("argument or option", "meaning"), map(_option, [*arguments, *options]))
    rows = [(f"`{code}`", meaning) for code, meaning in sorted(_exits().items())]
    yield from ("### Exit status", "", *_table(("status", "meaning"), rows))


def _option(parameter: Any) -> tuple[str, str]:
    name = parameter.opts[0]
    flag = bool(getattr(parameter, "is_flag", False))
    text = parameter.help or ""
    if parameter.required:
        text += " Required."
    elif name.startswith("-") and not flag and parameter.default is not None:
        text += f" Default: `{parameter.default}`."
    return f"`{name if name.startswith('-') else name.upper()}`", text


def _exits() -> dict[int, str]:
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, KeeltuneError)]
    ours = {c.exit_status: _summary(c) for c in classes if c.exit_status != 1}
    return {
        0: "Done.",
        1: "A bug of keeltune; please report it.",
        130: "A second Ctrl-C, SIGTERM or SIGHUP ended it at once.",
        **ours,
    }


def _recipe() -> Iterator[str]:
    schema = json_schema()
    later = "The whole recipe is declared; a field of a later version is refused with “not built yet”, never ignored."
    yield from ("## The recipe", "", schema["description"], later, "", *_fields(schema))
    for name, part in sorted(schema["$defs"].items()):
        yield from (f"### {name}", "", part["description"].replace("\n", " "), "", *_fields(part))


def _fields(part: dict[str, Any]) -> Iterator[str]:
    required = part.get("required", [])
    yield from _table(
        ("field", "type", "default", "meaning"),
        [
            (
                f"`{name}`",
                _type(field),
                "required" if name in required else _default(field),
                field.get("description", ""),
            )
            for name, field in part["properties"].items()
        ],
    )


def _default(field: dict[str, Any]) -> str:
    """A section without a default of its own stands for the defaults of its fields."""
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "–"


def _type(field: dict[str, Any]) -> str:
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(branch) for branch in field[union]))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{json.dumps(v)}`" if not isinstance(v, str) else f"`{v}`" for v in _values(field))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    words = {
        "string": "text",
        "integer": "whole number",
        "boolean": "true or false",
        "null": "null",
        "any": "any value",
    }
    return words.get(kind, kind) + _bounds(field)


def _values(field: dict[str, Any]) -> list[Any]:
    return field.get("enum", [field.get("const")])


def _bounds(field: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    parts = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field and abs(field[name]) < 2**31]
    return f" {', '.join(parts)}" if parts else ""


def _folder(title: str, folder: str, sentence: str) -> Iterator[str]:
    yield from (f"## {title}", "", sentence, "")
    for name in registry.names(folder):
        found = registry.find(folder, name)
        heading = f"`{name}`" if inspect.isclass(found) else f"`{name}`: `{found.__name__}{_signature(found)}`"
        yield from (f"### {heading}", "", *_doc(found))


def _metrics() -> Iterator[str]:
    sentence = (
        "Each task has its own; `evaluation.metrics` adds others of the same kind of answer, or "
        "`my_package.my_module:Name`."
    )
    rows = []
    for name in registry.names("metrics"):
        metric = registry.find("metrics", name)
        best = "0" if not metric.higher_is_better else f"{metric.scale:g}"
        scores = ", ".join(f"`{score}`" for score in metric.names)
        rows.append((f"`{name}`", scores, metric.answers, best, metric.library))
    table = _table(("metric", "scores", "answer", "best", "library"), rows)
    yield from _folder("Metrics", "metrics", "\n".join([sentence, "", *table]))


def _library() -> Iterator[str]:
    yield from ("## The library", "", "`import keeltune as kt`; names are imported when they are first used.", "")
    for name in kt.__all__:
        found = getattr(kt, name)
        if inspect.ismodule(found):
            continue
        plain = inspect.isclass(found) and (issubclass(found, BaseModel | BaseException) or inspect.isabstract(found))
        yield from (f"### `kt.{name}{'' if plain else _signature(found)}`", "", *_doc(found))
        if inspect.isclass(found) and not plain:
            for method, member in vars(found).items():
                if method == "__call__":
                    yield from (f"#### `kt.{name}.__call__{_signature(member)}`", "", *_doc(member))


def _signature(found: Callable[..., Any]) -> str:
    """Its signature; annotations are strings in the code, and are shown without their quotes."""
    text = re.sub(r"ForwardRef\('([^']*)'\)", r"\1", str(inspect.signature(found)))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("torch.Tensor", "Tensor")


def _summary(found: Any) -> str:
    return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")


def _doc(found: Any) -> Iterator[str]:
    """A docstring: its first sentence as text, the rest as it stands."""
    head, _, rest = (inspect.getdoc(found) or "").partition("\n\n")
    yield from (head.replace("\n", " "), "")
    if rest:
        yield from ("```text", rest, "```", "")


def _table(heading: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{' --- |' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def main() -> int:
    text = reference()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8", newline="\n")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/reference.md is not what the code says; run: python docs/make_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
