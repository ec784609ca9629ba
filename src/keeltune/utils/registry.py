"""The folder is the registry: a file in `tasks/`, `divergences/` or `references/` is at once a valid name.

Nothing is registered and nothing is listed twice. A `-` in a recipe is a `_` in a file. A file counts unless it is
its folder's contract (`tasks/task.py`). Outside the package: `my_package.my_module:MyTask`.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from keeltune.utils.errors import nearest

SHELVES = {
    "divergences": "objective/divergences",
    "matching": "objective/matching",
    "references": "objective/references",
    "regularizers": "training/regularizers",
    "tasks": "tasks",
}
"""Where the files of each shelf lie in the package."""

_PACKAGE = Path(__file__).parents[1]


def names(folder: str) -> list[str]:
    """The names that `folder` holds, as a recipe writes them; no module is imported."""
    contract = folder.removesuffix("s")
    files = (path.stem for path in (_PACKAGE / SHELVES[folder]).glob("*.py"))
    return sorted(name.replace("_", "-") for name in files if name != contract and not name.startswith("_"))


def check(folder: str, name: str) -> str | None:
    """Why `name` is not in `folder` (with the nearest name that is), or None where it is."""
    known = names(folder)
    if name in known or ":" in name:
        return None
    return f'unknown {folder.removesuffix("s")} "{name}"{nearest(name, known)} (known: {", ".join(known)})'


@cache
def find(folder: str, name: str) -> Any:
    """The function or the one final class that `name` stands for.

    A file of functions (`divergences/`) yields the function of its own name, a file of classes the one class that it
    defines. Raises `LookupError` with the nearest name, or where the file holds no such thing.
    """
    if reason := check(folder, name):
        raise LookupError(reason)
    if ":" in name:
        module_name, attribute = name.split(":", 1)
        if "" not in sys.path:  # the console script does not look into the working folder, `python -m` does
            sys.path.insert(0, "")
        return getattr(import_module(module_name), attribute)
    stem = name.replace("-", "_")
    module = import_module(".".join(["keeltune", *SHELVES[folder].split("/"), stem]))
    if function := vars(module).get(stem):
        return function
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    final = [c for c in classes if not inspect.isabstract(c)]
    if len(final) != 1:
        raise LookupError(f"keeltune/{SHELVES[folder]}/{stem}.py must hold exactly one final class, found {len(final)}")
    return final[0]
