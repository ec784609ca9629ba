"""The floor plan of the package, as a test: packages import one way, and files and functions stay short.

It knows fourteen packages and no module: a new file in one of them needs no line here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "keeltune"

FLOORS = [
    ("cli",), ("advisor",), ("runs",), ("exporters",), ("reports",), ("evaluation",), ("training",), ("tasks",),
    ("models",), ("data",), ("keras", "objective", "recipe"), ("utils",),
]  # fmt: skip
"""A package imports those of the lines below its own; two of one line do not know each other."""

FILE, FUNCTION, PARAMETERS = 300, 60, 7

LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_PARAMETERS = {
    "cli.advise.advise": "each parameter is an option of the command",
    "cli.predict.predict": "each parameter is an option of the command",
}
"""The exceptions, each with the reason why it is better long. One that is not needed any more fails too."""


@cache
def modules() -> dict[str, Path]:
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imported(module: str) -> list[tuple[str, str | None, int]]:
    return list(_imported(module))


def _imported(module: str) -> Iterator[tuple[str, str | None, int]]:
    """(module of ours, name in it or None, line) of each import anywhere in a file, also in functions and behind
    TYPE_CHECKING."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            if node.module is None or node.module.split(".")[0] != "keeltune":
                continue
            base = node.module.removeprefix("keeltune").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                if inner in modules():
                    yield inner, None, node.lineno
                elif (PACKAGE / inner.replace(".", "/")).is_dir():
                    yield f"{inner}.__init__", None, node.lineno
                else:
                    holder = base if base in modules() else f"{base}.__init__".lstrip(".")
                    yield holder, alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "keeltune":
                    name = alias.name.removeprefix("keeltune").lstrip(".")
                    yield name if name in modules() else f"{name}.__init__".lstrip("."), None, node.lineno


def floor(package: str) -> int:
    return next(number for number, packages in enumerate(FLOORS) if package in packages)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(module.Class.function, node) of every function, inner ones too."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = f"{name}.{child.name}" if named else name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield inner, child
            yield from walk(child, inner)

    for module in modules():
        yield from walk(tree(module), module)


def test_every_file_lies_in_a_package_that_the_floors_name():
    named = {name for line in FLOORS for name in line}
    assert {m.split(".")[0] for m in modules() if "." in m} == named
    assert {m for m in modules() if "." not in m} == {"__init__", "__main__"}


def test_imports_go_one_way():
    wrong = []
    for module in modules():
        if "." not in module:  # the public names, and `python -m keeltune`
            continue
        package = module.split(".")[0]
        for other, _, line in imported(module):
            if other == "__init__" or (there := other.split(".")[0]) == package:
                continue
            if floor(there) <= floor(package):
                wrong.append(f"{module}:{line} imports {other}")
    assert not wrong


def test_there_is_no_cycle():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other, _, _ in imported(module):
                if not other.endswith("__init__"):  # a package that names its files is imported before any of them
                    walk(other, (*path, module))
            done.add(module)

    for module in modules():
        if not module.endswith("__init__"):
            walk(module, ())


def test_nobody_imports_what_another_file_keeps_to_itself():
    wrong = [
        f"{module}:{line} imports {other}.{name}"
        for module in modules()
        for other, name, line in imported(module)
        if (name or other.rsplit(".", 1)[-1]).startswith("_") and not (name or other).endswith("__")
    ]
    for module in modules():
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(tree(module))
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keeltune"
            for alias in node.names
            if f"{node.module}.{alias.name}".removeprefix("keeltune.") in modules()
        }
        wrong += [
            f"{module}:{node.lineno} reads {node.value.id}.{node.attr}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
            if node.attr.startswith("_") and not node.attr.endswith("__")
        ]
    assert not wrong


def test_the_objective_knows_no_transformers():
    for module in (m for m in modules() if m.startswith("objective.")):
        for node in ast.walk(tree(module)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "transformers" not in {name.split(".")[0] for name in names}, f"{module}:{node.lineno}"


def test_the_trainer_alone_imports_the_trainer():
    users = {
        module
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers"
        if "Trainer" in {alias.name for alias in node.names}
    }
    assert users == {"training.trainer"}


def test_the_method_is_a_value():
    """Nothing but the recipe and the reports may ask which method it is; the demo and the advisor write recipes, one of
    each method."""
    branch = re.compile(r"""method\s*(==|!=|\bin\b)|["'](fine-tuning|distillation|cross-domain)["']""")
    allowed = re.compile(r"(recipe|reports|advisor)\.|cli\.demo")
    wrong = [
        f"{module}:{number}"
        for module, path in modules().items()
        if not allowed.match(module)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if branch.search(line)
    ]
    assert not wrong


def test_runs_alone_and_what_is_above_it_imports_reports():
    above = {name for line in FLOORS[: floor("reports") + 1] for name in line}
    users = {
        module.split(".")[0] for module in modules() for other, *_ in imported(module) if other.startswith("reports.")
    }
    assert users - {"__init__"} <= above


def lengths_of(what: str) -> dict[str, int]:
    if what == "lines of a file":
        return {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in modules().items()}
    if what == "lines of a function":
        return {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    return {name: parameters(node.args) for name, node in functions()}


def parameters(arguments: ast.arguments) -> int:
    """How many a call may name; `self` and `cls` are not counted."""
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    return len(names[names[:1] in (["self"], ["cls"]) :]) + len(arguments.kwonlyargs)


@pytest.mark.parametrize(
    ("what", "limit", "exceptions"),
    [("lines of a file", FILE, LONG_FILES), ("lines of a function", FUNCTION, LONG_FUNCTIONS),
     ("parameters of a function", PARAMETERS, MANY_PARAMETERS)],
)  # fmt: skip
def test_nothing_is_longer_than_one_reads_at_a_time(what, limit, exceptions):
    over = {name: number for name, number in lengths_of(what).items() if number > limit}
    assert {name: number for name, number in over.items() if name not in exceptions} == {}, f"more than {limit} {what}"
    assert set(exceptions) <= set(over), f"an exception for {what} that none needs any more"
