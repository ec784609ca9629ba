"""keeltune fine-tunes pretrained models on an even keel: one formula, three methods.

    import keeltune as kt

    run = kt.train("recipe.yaml")                       # -> Run: its folder, its result.json
    kt.evaluate(run.folder, "test.jsonl")               # -> metrics, intervals, rows
    kt.load(run.folder)("Lost my bag again.")           # -> {"text": …, "prediction": "negative", "probabilities": …}
    kt.push(run.folder, "me/tweets")                    # model and card to the hub, privately
    kt.export(run.folder, to="int8")                    # for onnxruntime, proved on the run's own rows
    kt.Objective("reverse-kl", weight=0.29)             # the formula, for a loop of your own

Names are imported when they are first used, so that `import keeltune` and `keeltune --help` cost nothing.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from keeltune.utils import public_paths
from keeltune.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from keeltune import tasks as tasks
    from keeltune.advisor import advise as advise
    from keeltune.objective import divergences as divergences
    from keeltune.objective import references as references
    from keeltune.objective.formula import Counts as Counts
    from keeltune.objective.formula import Objective as Objective
    from keeltune.objective.formula import Terms as Terms
    from keeltune.objective.predictions import Coarse as Coarse
    from keeltune.objective.predictions import Dense as Dense
    from keeltune.objective.predictions import Projected as Projected
    from keeltune.objective.predictions import cross_entropy as cross_entropy
    from keeltune.recipe import Recipe as Recipe
    from keeltune.recipe import load as load_recipe  # noqa: F401
    from keeltune.runs.exporting import Exported as Exported
    from keeltune.runs.exporting import export as export
    from keeltune.runs.inference import evaluate as evaluate
    from keeltune.runs.inference import predict as predict
    from keeltune.runs.loaded_model import LoadedModel as LoadedModel
    from keeltune.runs.loaded_model import load as load
    from keeltune.runs.publishing import push as push
    from keeltune.runs.run import train as train
    from keeltune.runs.run_folder import Run as Run
    from keeltune.runs.verification import Finding as Finding
    from keeltune.runs.verification import verify as verify
    from keeltune.utils.errors import UserError as UserError

if sys.platform == "win32":  # without locks, signals and folders that can be opened nothing of a run would be safe
    raise ImportError("keeltune runs on Linux and macOS; on Windows, in WSL (https://learn.microsoft.com/windows/wsl)")

public_paths.install()

_HOME = {
    "Coarse": "objective.predictions",
    "Counts": "objective.formula",
    "Dense": "objective.predictions",
    "Exported": "runs.exporting",
    "Finding": "runs.verification",
    "LoadedModel": "runs.loaded_model",
    "Objective": "objective.formula",
    "Projected": "objective.predictions",
    "Recipe": "recipe",
    "Run": "runs.run_folder",
    "Terms": "objective.formula",
    "UserError": "utils.errors",
    "advise": "advisor",
    "cross_entropy": "objective.predictions",
    "evaluate": "runs.inference",
    "export": "runs.exporting",
    "load": "runs.loaded_model",
    "load_recipe": "recipe",
    "predict": "runs.inference",
    "push": "runs.publishing",
    "train": "runs.run",
    "verify": "runs.verification",
}
_SHELVES = {"divergences": "objective.divergences", "references": "objective.references", "tasks": "tasks"}

__all__ = [*_HOME, *_SHELVES]  # noqa: PLE0604  (strings, all of them)


def __getattr__(name: str) -> Any:
    if name in _SHELVES:
        return import_module(f"keeltune.{_SHELVES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'keeltune' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"keeltune.{_HOME[name]}")
    return getattr(module, "load" if name == "load_recipe" else name)
