"""The end of a run: the page, then `result.json`, by whose "completed" everything else is known to be there; and what a
finished run lacks all the same.

model/  predictions/  adapter/      conclusion
looks.jsonl                         once a training, however often its end is interrupted
report.html                         from the result alone; it says of which
result.json                         last
checkpoints/                        gone after it, but for `run.json`, where the recipe does not keep them
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.evaluation import test_set_looks
from keeltune.recipe import from_dict
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs import digests
from keeltune.runs.run_folder import Run
from keeltune.runs.stored_result import read_result
from keeltune.training import checkpoints, run_identity
from keeltune.training.preparation.material import Material
from keeltune.utils import manifest
from keeltune.utils.errors import Problem, StateRefused, UserError
from keeltune.utils.files import open_regular, write_json, write_text
from keeltune.utils.identity import differences
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.progress import Display


def next_number(folder: Path) -> int:
    """The number of a training that begins in a folder: one more than have looked at the test rows there."""
    return 1 + sum("training" in look for look in test_set_looks.looks_of(folder))


def number_of(folder: Path) -> int | None:
    """The number of the training in a run's folder; None where that is not known."""
    number = None
    with suppress(NotAsWrittenError):
        number = run_identity.run_of(folder).get("training")
    return number if isinstance(number, int) else None


def publish(recipe: Recipe, run: Run) -> None:
    """Counts the look at the test rows, and writes the page and, last of all, the result: of one seed or of several."""
    if tested := run.result["data"]["test"]:
        test_set_looks.look(
            run.folder,
            by="train",
            fingerprint=tested["fingerprint"],
            rows=tested["rows"],
            training=number_of(run.parts[0]),
        )
    stored = None
    with suppress(UserError):  # what was just written as YAML need not be read, which takes long
        stored = from_dict(recipe.written(run.folder), run.folder)
    _write_page(recipe, run, stored)
    write_json(run.folder / "result.json", run.result)


def renew_page(recipe: Recipe, run: Run, display: Display) -> None:
    """Writes the page of a finished run again where it is missing, cut, or of another result."""
    with suppress(OSError), open_regular(run.folder / "report.html") as stream:
        page, made_of = stream.read(), run_page.made_of(run.result)
        if made_of.encode() in page and page.rstrip().endswith(b"</html>"):
            return
    _write_page(recipe, run)
    display.say(f"{run.folder / 'report.html'} was missing or of another result; it is written again")


def _write_page(recipe: Recipe, run: Run, stored: Recipe | None = None) -> None:
    write_text(run.folder / "report.html", run_page.page(run.folder, run.result, recipe.report.sections, stored))


KEPT = "training.keep_checkpoints: true keeps them"


def refuse_irreparable(folder: Path, missing: list[str], checkpoint: Path | None) -> None:
    """StateRefused where parts of a finished run are missing and no checkpoint is left to make them from: training anew
    would take the place of a result that is there."""
    if missing and checkpoint is None:
        fix = f"put them back, or make the run again with --overwrite, which ends as it did ({KEPT} for such a case)"
        found = f"{'; '.join(missing)}, and no checkpoint to make it from"
        raise StateRefused(Problem(str(folder), "--resume", found, "a finished run that is whole", fix))


def goes_further(run: Run, material: Material, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the recipe asks a finished run for more steps than it has made; `then` and `now`: the identities of the
    run and of the recipe, of which the second one may ask for that."""
    changed = {name for name, _, _ in differences(then, now)}
    longer = changed & {"recipe.training.epochs", "recipe.training.max_steps"}
    return bool(longer) and material.steps > run.result["training"]["steps"]


def refuse_further(run: Run, material: Material) -> None:
    """StateRefused: a finished run cannot be trained on, as its checkpoints are gone."""
    found = f"{material.steps} steps for a finished run of {run.result['training']['steps']}, without its checkpoints"
    expected = f"a run that has its checkpoints ({KEPT})"
    fix = f"train its model further in a run of its own (model: {run.model}), or start anew with --overwrite"
    raise StateRefused(Problem(str(run.folder), "--resume", found, expected, fix))


def drop_checkpoints(recipe: Recipe, folder: Path, display: Display) -> None:
    """Takes a finished run's checkpoints and best weights away, unless the recipe keeps them.

    Not before everything that the run answers for is on the disk, and is what its result says of it, and the result
    what its own digest says. The best weights go last: whatever is left by a kill in between is whole.
    """
    place = folder / checkpoints.FOLDER
    stored = [*place.glob(f"{checkpoints.PREFIX}*"), *place.glob(f"{checkpoints.BEST_PREFIX}*")]
    if recipe.training.keep_checkpoints or not stored:
        return
    try:
        _require_whole(folder)
        for _, checkpoint in reversed(checkpoints.found(place)):
            manifest.remove(checkpoint)
        checkpoints.drop_unnamed(place)
        manifest.sweep(place)
    except (NotAsWrittenError, UserError) as error:
        display.say(f"warning: the checkpoints of {folder} stay, as it does not hold what was written: {error}")
    except OSError as error:
        display.say(f"warning: some checkpoints of {folder} could not be removed ({error.strerror}): take them away")


def _require_whole(folder: Path) -> None:
    """Raises NotAsWrittenError or UserError where a folder holds no finished run to the last bit, on its disk."""
    run = Run(folder, read_result(folder))
    told = run.result["digests"] or {}
    if run.result["status"] != "completed" or not told or told["result"] != digests.own(run.result):
        raise NotAsWrittenError("result.json is not what was written, or is an earlier version's")
    if missing := missing_parts(run):
        raise NotAsWrittenError("; ".join(missing))
    files = [folder / name for name in ("result.json", *told["files"])]
    for path in (*files, *sorted({file.parent for file in files})):
        manifest.sync(path)


def missing_parts(run: Run) -> list[str]:
    """What a finished run of one seed lacks of what it wrote, or has otherwise, each with what is wrong with it."""
    told = (run.result["digests"] or {}).get("files", {})
    folders = sorted({"model", *(name.split("/")[0] for name in told if "/" in name)})
    lost = [name for name in folders if not (run.folder / name).is_dir()]
    found = [f"{name} is missing" for name in lost]
    for name, entry in told.items():
        try:
            if name.split("/")[0] not in lost:
                manifest.check(run.folder / name, entry)
        except NotAsWrittenError as error:
            found.append(f"{name}: {error}")
    return found
