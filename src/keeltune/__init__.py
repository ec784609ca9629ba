"""keeltune fine-tunes pretrained models on an even keel: one formula, three methods.

    import keeltune as kt

    run = kt.train("recipe.yaml")                       # -> Run: its folder, its result.json
    kt.evaluate(run.folder, "test.jsonl")               # -> metrics, intervals, rows
    kt.Objective("reverse-kl", weight=0.29)             # the formula, for a loop of your own

Names are imported when they are first used, so that `import keeltune` and `keeltune --help` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keeltune import divergences as divergences
    from keeltune import references as references
    from keeltune import tasks as tasks
    from keeltune.advisor import advise as advise
    from keeltune.apply import evaluate as evaluate
    from keeltune.apply import predict as predict
    from keeltune.objective import Counts as Counts
    from keeltune.objective import Objective as Objective
    from keeltune.objective import Terms as Terms
    from keeltune.problems import UserError as UserError
    from keeltune.recipe import Recipe as Recipe
    from keeltune.recipe import load as load_recipe  # noqa: F401
    from keeltune.rows import Coarse as Coarse
    from keeltune.rows import Dense as Dense
    from keeltune.rows import Projected as Projected
    from keeltune.rows import cross_entropy as cross_entropy
    from keeltune.run import Run as Run
    from keeltune.seeds import train as train

__version__ = "0.1.0"

_HOME = {
    "Coarse": "rows",
    "Counts": "objective",
    "Dense": "rows",
    "Objective": "objective",
    "Projected": "rows",
    "Recipe": "recipe",
    "Run": "run",
    "Terms": "objective",
    "UserError": "problems",
    "advise": "advisor",
    "cross_entropy": "rows",
    "evaluate": "apply",
    "load_recipe": "recipe",
    "predict": "apply",
    "train": "seeds",
}
_FOLDERS = ("divergences", "references", "tasks")

__all__ = [*_HOME, *_FOLDERS]  # noqa: PLE0604  (strings, all of them)


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f"keeltune.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'keeltune' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"keeltune.{_HOME[name]}")
    return getattr(module, "load" if name == "load_recipe" else name)
