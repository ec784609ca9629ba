"""What a run's checkpoints belong to: the recipe, the data and the models that it was started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keeltune.data import dataset
from keeltune.models import model_files
from keeltune.recipe.fields import Recipe
from keeltune.training.job import Job, ReferenceSource
from keeltune.training.preparation.compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.utils import distributed
from keeltune.utils.errors import Problem, StateRefused, shown
from keeltune.utils.files import write_text
from keeltune.utils.identity import differences, refuse_other
from keeltune.utils.progress import Display

DECIDED = "reference.json"
"""What a run's first start measured and chose, below `checkpoints`."""


def identity_of(material: Material) -> dict[str, Any]:
    """What a checkpoint belongs to: everything in the recipe that shapes the weights, and the data's content."""
    return {
        "recipe": material.recipe.model_dump(mode="json", by_alias=True, exclude={"output", "report"}),
        "data": {name: dataset.fingerprint(rows) for name, rows in material.rows.items()},
        "model": NEW if material.source == NEW else model_files.fingerprint(material.source),
        "reference": [model_files.fingerprint(files.source) for files in material.references],
        "world_size": distributed.world_size(),
    }


def decided(folder: Path) -> tuple[ReferenceSource | None, str | None]:
    """Where the reference of a started run comes from, and its precision: `auto` is measured once, at a run's start."""
    try:
        kept = json.loads((folder / "checkpoints" / DECIDED).read_text(encoding="utf-8"))
        return ReferenceSource(kept["kind"], kept["reason"]), kept.get("precision")
    except (OSError, ValueError, KeyError):
        return None, None


def keep_decided(folder: Path, job: Job, *, resumed: bool) -> None:
    """Notes it; a run that goes on must read the very answers that it began with."""
    file, source = folder / "checkpoints" / DECIDED, job.reference_source
    now = {"kind": source.kind, "reason": source.reason, "digest": (source.cache or {}).get("digest")}
    if resumed and file.is_file():
        then = json.loads(file.read_text(encoding="utf-8"))
        then.pop("precision", None)
        if then != now:
            fix = "restore the cache, or start anew with --overwrite"
            refuse_other(folder, {"reference": then}, {"reference": now}, fix, holder="the run")
    write_text(file, json.dumps(now | {"precision": job.precision}))


def newest(folder: Path, identity: dict[str, Any], recipe: Recipe, display: Display) -> Path | None:
    """The newest whole checkpoint of this very run, or None where it has none yet.

    A field that the run does not know, as keeltune got it since, is no change while it is at its default.
    """
    file = folder / "checkpoints" / "identity.json"
    if not file.is_file():
        display.say(f"{folder} holds no checkpoint yet; starting from the beginning")
        return None
    stored = json.loads(file.read_text(encoding="utf-8"))
    chosen = {"recipe": recipe.model_dump(by_alias=True, exclude_defaults=True)}
    problems = [
        Problem(
            str(folder),
            name.removeprefix("recipe."),
            f"{shown(now)} in this recipe, {shown(then)} in the run",
            "the recipe, data and number of processes that the run was started with",
            "undo the change, or start anew with --overwrite",
        )
        for name, then, now in differences(stored, json.loads(json.dumps(identity)))
        if _named(stored, name) or _named(chosen, name) or not name.startswith("recipe.")
    ]
    if problems:
        raise StateRefused(problems)
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda p: -int(p.name.rsplit("-", 1)[1]))
    for path in found:
        if (path / "trainer_state.json").is_file() and (path / "optimizer.pt").is_file():
            display.say(f"going on from {path.name}")
            return path
        display.say(f"skipping {path.name}: it is not whole")
    display.say(f"{folder} holds no checkpoint yet; starting from the beginning")
    return None


def _named(values: Any, name: str) -> bool:
    """Whether a dotted field stands in nested mappings, be it as null."""
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True
