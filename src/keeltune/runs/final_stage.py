"""The end of a run: the page, then `result.json`, by whose "completed" everything else is known to be there; and what a
finished run lacks all the same.

model/  predictions/  adapter/      conclusion
looks.jsonl                         once a training, however often its end is interrupted
report.html                         from the result alone; it says of which
result.json                         last
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from keeltune.evaluation import test_set_looks
from keeltune.recipe.fields import Recipe
from keeltune.reports import run_page
from keeltune.runs.run_folder import Run
from keeltune.training import run_identity
from keeltune.utils import manifest
from keeltune.utils.errors import Problem, StateRefused
from keeltune.utils.files import open_regular, write_json, write_text
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
    _write_page(recipe, run)
    write_json(run.folder / "result.json", run.result)


def renew_page(recipe: Recipe, run: Run, display: Display) -> None:
    """Writes the page of a finished run again where it is missing, cut, or of another result."""
    with suppress(OSError), open_regular(run.folder / "report.html") as stream:
        page, made_of = stream.read(), run_page.made_of(run.result)
        if made_of.encode() in page and page.rstrip().endswith(b"</html>"):
            return
    _write_page(recipe, run)
    display.say(f"{run.folder / 'report.html'} was missing or of another result; it is written again")


def _write_page(recipe: Recipe, run: Run) -> None:
    write_text(run.folder / "report.html", run_page.page(run.folder, run.result, recipe.report.sections))


def refuse_irreparable(folder: Path, missing: list[str], checkpoint: Path | None) -> None:
    """StateRefused where parts of a finished run are missing and no checkpoint is left to make them from: training anew
    would take the place of a result that is there."""
    if missing and checkpoint is None:
        fix = "put them back, or start over with --overwrite"
        found = f"{'; '.join(missing)}, and no checkpoint to make it from"
        raise StateRefused(Problem(str(folder), "--resume", found, "a finished run that is whole", fix))


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
