"""The layout of docs/decisions and the design, as a test: depth, direction, cycles, and no branch on the method."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "keeltune"
FOLDERS = ("tasks", "references", "divergences", "matching")

# Lower never imports higher. Files of a line may import those of the lines above it and, without a cycle, each other.
LAYERS = [
    ["problems"],
    [
        "registry",
        "rows",
        "display",
        "endpoint",
        "formats",
        "machine",
        "language",
        "words",
        "vocabularies",
        "divergences",
        "matching",
        "media",
        "pictures",
        "sound",
    ],
    ["shards", "forms"],
    [
        "data",
        "objective",
        "references",
        "recipe",
        "recipe_text",
        "recipe_fields",
        "recipe_kinds",
        "recipe_data",
        "recipe_regularizers",
        "recipe_training",
        "recipe_checks",
        "reviews",
    ],
    ["audit", "augment", "tasks", "families", "models"],
    ["surgery", "averages"],
    ["regularizers"],
    ["batching"],
    ["callbacks"],
    ["evaluation", "trainer", "self_test", "drift"],
    ["analysis"],
    ["newborn", "fitting"],
    ["written", "pseudo_labels", "label_space"],
    ["prepare"],
    ["kept_head", "cache_identity", "census"],
    ["cache"],
    ["beside", "ahead"],
    ["build"],
    ["gate"],
    ["results"],
    ["checkpoints"],
    ["history"],
    ["scoring"],
    ["weight_path"],
    ["domains", "guard", "bias"],
    ["report"],
    ["run"],
    ["apply", "inspection", "precompute"],
    ["compare", "seeds"],
    ["curve"],
    ["advisor"],
    ["demo"],
    ["cli"],
    ["__main__", "__init__"],
]


def modules() -> dict[str, Path]:
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """The keeltune modules that a module imports anywhere, also inside functions; type-checking blocks aside."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in (n for n in ast.walk(tree) if n not in skipped):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("keeltune"):
            base = node.module.removeprefix("keeltune").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in modules() or (PACKAGE / inner).is_dir() else base or "__init__")
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("keeltune.") for a in node.names if a.name.startswith("keeltune.")}
    return frozenset(found - {""})


def layer(module: str) -> int:
    top = module.split(".")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    pytest.fail(f"{module} is in no layer of tests/test_architecture.py")


def test_python_files_lie_one_folder_deep():
    assert not [m for m in modules() if m.count(".") > 1]


def test_imports_go_one_way():
    wrong = [
        f"{m} imports {other}"
        for m in modules()
        for other in imports(m)
        if other != "__init__" and layer(other) > layer(m)
    ]
    assert not wrong


def test_there_is_no_cycle():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done or module not in modules():
            return
        for other in imports(module) - {"__init__"}:
            walk(other, (*path, module))
        done.add(module)

    for module in modules():
        if not module.endswith("__init__"):
            walk(module, ())


@pytest.mark.parametrize("folder", [f for f in FOLDERS if (PACKAGE / f).is_dir()])
def test_siblings_do_not_know_each_other(folder):
    others = set(FOLDERS) - {folder}
    wrong = [
        f"{m} imports {o}"
        for m in modules()
        if m.startswith(f"{folder}.")
        for o in imports(m)
        if o.split(".")[0] in others
    ]
    assert not wrong


@pytest.mark.parametrize("name", ["objective", "rows", "divergences", "references"])
def test_the_core_knows_no_transformers_and_no_sibling(name):
    for module in (m for m in modules() if m.split(".")[0] == name):
        assert "transformers" not in modules()[module].read_text(encoding="utf-8").replace("`transformers", "")
        own = {i for i in imports(module) if i.split(".")[0] in FOLDERS and i.split(".")[0] != name}
        assert not own, f"{module} imports {own}"


def test_the_trainer_alone_imports_the_trainer():
    users = [m for m, p in modules().items() if re.search(r"import .*\bTrainer\b", p.read_text(encoding="utf-8"))]
    assert users == ["trainer"]


def test_the_method_is_a_value():
    """Nothing but the recipe and the report may ask which method it is."""
    branch = re.compile(r"""method\s*(==|!=|\bin\b)|["'](fine-tuning|distillation|cross-domain)["']""")
    allowed = {
        "recipe",
        "recipe_fields",
        "recipe_checks",
        "report",
        "demo",
        "advisor",
    }  # the demo and the advisor write recipes, one of each method
    wrong = [
        m
        for m, p in modules().items()
        if m.split(".")[0] not in allowed and branch.search(p.read_text(encoding="utf-8"))
    ]
    assert not wrong


def test_files_are_short():
    long = {m: n for m, p in modules().items() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 520}
    assert not long
