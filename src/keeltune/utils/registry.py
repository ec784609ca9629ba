"""The folder is the registry: a file on a shelf is at once a valid name in a recipe. Nothing is listed twice.

A shelf is a folder of the package (`SHELVES`). It holds its contract, the file named by the shelf's singular, and one
file for each thing; the contract and `_helpers.py` are no names. A `-` in a recipe is a `_` in a file.

| shelf | contract | what a file holds | named in a recipe by |
| --- | --- | --- | --- |
| `architectures` | `architecture.py` | one final `Architecture`, which a family writes texts with | – |
| `divergences` | `divergence.py` | a function of the file's name | `objective.divergence` |
| `families` | `tasks/task.py` | one abstract `Task` that tasks derive from | – |
| `file_formats` | `file_format.py` | one final `FileFormat` | `data.format`, or a file's ending |
| `matching` | `matching.py` | one final `Term` | `objective.matching` |
| `metrics` | `metric.py` | one final `Metric` | `evaluation.metrics` |
| `references` | `reference.py` | one final `Reference` | `reference.from` |
| `regularizers` | `regularizer.py` | one final `Regularizer` | `training.regularizers` |
| `sections` | `section.py` | one final `Section` | (all are on the page), `report.sections` |
| `tasks` | `task.py` | one final `Task` | `task` |

A final class is one without abstract methods. From a package of one's own: `my_package.my_module:Name`, whose module is
imported from the installed packages or the working folder. Names are listed without importing any file.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from keeltune.utils.errors import nearest


@dataclass(frozen=True)
class Shelf:
    """A shelf.

    folder    where its files lie in the package
    singular  what one of them is called, and the name of its contract
    contract  the module of the contract, where it lies elsewhere
    bases     whether its classes are there to be derived from, and so may be abstract
    adapter   the module whose `of_function(name, function)` makes such a class of a function from outside
    """

    folder: str
    singular: str
    contract: str = ""
    bases: bool = False
    adapter: str = ""

    def module(self, stem: str) -> str:
        """The module of a file."""
        return ".".join(["keeltune", *self.folder.split("/"), stem])

    @property
    def contract_module(self) -> str:
        return self.contract or self.module(self.singular.replace(" ", "_"))


SHELVES = {
    "architectures": Shelf("tasks/architectures", "architecture"),
    "divergences": Shelf("objective/divergences", "divergence"),
    "families": Shelf("tasks/families", "family", contract="keeltune.tasks.task", bases=True),
    "file_formats": Shelf("data/file_formats", "file format"),
    "matching": Shelf("objective/matching", "matching"),
    "metrics": Shelf("tasks/metrics", "metric", adapter="keeltune.tasks.metrics._function"),
    "references": Shelf("objective/references", "reference"),
    "regularizers": Shelf("training/regularizers", "regularizer"),
    "sections": Shelf("reports/sections", "section"),
    "tasks": Shelf("tasks", "task"),
}

_PACKAGE = Path(__file__).parents[1]


def names(shelf: str) -> list[str]:
    """The names that `shelf` holds, as a recipe writes them; no module is imported."""
    contract = SHELVES[shelf].contract_module
    stems = (path.stem for path in (_PACKAGE / SHELVES[shelf].folder).glob("[!_]*.py"))
    return sorted(stem.replace("_", "-") for stem in stems if SHELVES[shelf].module(stem) != contract)


def check(shelf: str, name: str) -> str | None:
    """Why `name` is not on `shelf` (with the nearest name that is), or None where it is.

    A name from outside the package is not looked for: that would import it.
    """
    known = names(shelf)
    if name in known or ":" in name:
        return None
    return f'unknown {SHELVES[shelf].singular} "{name}"{nearest(name, known)} (known: {", ".join(known)})'


def fault(shelf: str, name: str) -> str | None:
    """`check`, and for a name from outside the package, which is imported, what is wrong with it."""
    if ":" not in name:
        return check(shelf, name)
    try:
        find(shelf, name)
    except LookupError as error:
        return str(error)
    return None


@cache
def find(shelf: str, name: str) -> Any:
    """The function or the one final class that `name` stands for.

    A file yields the function of its own name where it has one, else the one final class that it defines.
    Raises `LookupError` with the nearest name; where the file holds no such thing; and where a name from outside the
    package names no module that can be imported, nothing in it, or an abstract class.
    """
    if reason := check(shelf, name):
        raise LookupError(reason)
    if ":" in name:
        return _from_outside(shelf, name)
    stem = name.replace("-", "_")
    module = import_module(SHELVES[shelf].module(stem))
    if callable(function := vars(module).get(stem)):
        return function
    contract, bases = _contract(shelf), SHELVES[shelf].bases
    found = [c for c in _classes(module) if issubclass(c, contract) and (bases or not inspect.isabstract(c))]
    if len(found) != 1:
        file = f"keeltune/{SHELVES[shelf].folder}/{stem}.py"
        raise LookupError(f"{file} must hold exactly one {'' if bases else 'final '}class, found {len(found)}")
    return found[0]


def _classes(module: ModuleType) -> list[type]:
    """The classes that a module defines itself."""
    return [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]


def _contract(shelf: str) -> type:
    """The abstract class that a shelf's classes derive from; `object` where its contract is a function's signature."""
    abstract = [c for c in _classes(import_module(SHELVES[shelf].contract_module)) if inspect.isabstract(c)]
    return abstract[0] if len(abstract) == 1 else object


def _from_outside(shelf: str, name: str) -> Any:
    """`my_package.my_module:Name`, from the installed packages or the working folder."""
    module_name, attribute = name.split(":", 1)
    if "" not in sys.path:  # behind the installed packages: none of its files stands for one of them
        sys.path.append("")
    try:
        module = import_module(module_name)
    except Exception as error:  # a module of somebody else's fails in its own way
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            reason = f"no module {error.name} in the installed packages or in the working folder, {Path.cwd()}"
        else:
            reason = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        raise LookupError(reason) from error
    if not hasattr(module, attribute):
        raise LookupError(f"no {attribute} in {module_name}{nearest(attribute, vars(module))}")
    value = getattr(module, attribute)
    contract, adapter = _contract(shelf), SHELVES[shelf].adapter
    if adapter and callable(value) and not inspect.isclass(value):
        return import_module(adapter).of_function(name, value)
    if contract is not object and not (inspect.isclass(value) and issubclass(value, contract)):
        raise LookupError(f"{name} is no class derived from {contract.__module__}.{contract.__name__}")
    if inspect.isabstract(value):
        lacking = ", ".join(sorted(value.__abstractmethods__))
        raise LookupError(f"{name} is abstract: a {SHELVES[shelf].singular} must define {lacking}")
    if not callable(value):
        raise LookupError(f"{name} is neither a function nor a class")
    return value
