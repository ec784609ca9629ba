"""What a run's checkpoints belong to, and which of them it goes on from.

    checkpoints/run.json    `identity`: recipe, data, models, number of processes; `earlier`: what it was before each
                            change that the user allowed; `decided`: what the start measured and chose; `versions`;
                            `training`: which one of this folder it is, the same however often it goes on

It is sealed with its digest, and each checkpoint's manifest has a copy: a run whose `run.json` is lost or broken is
known by its newest checkpoint.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from keeltune.data import dataset
from keeltune.models import model_files
from keeltune.recipe import load
from keeltune.recipe.data_fields import AUTO
from keeltune.recipe.fields import Recipe
from keeltune.training import checkpoints
from keeltune.training.job import Job, ReferenceSource
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.utils import distributed, manifest
from keeltune.utils.errors import Problem, StateRefused, UserError, name_list, nearest, shown
from keeltune.utils.files import make_folder, write_atomically
from keeltune.utils.identity import differences, refuse_other
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.progress import Display
from keeltune.utils.version import __version__

RUN = "run.json"

CHANGEABLE = (
    "training.epochs", "training.max_steps", "training.learning_rate", "training.weight_decay",
    "training.warmup_steps", "training.lr_scheduler_type", "training.max_grad_norm", "training.save_steps",
    "training.save_strategy", "training.save_total_limit", "training.logging_steps", "training.logging_first_step",
    "training.dataloader_num_workers", "training.dataloader_prefetch_factor", "training.dataloader_pin_memory",
    "training.dataloader_timeout", "evaluation.every", "evaluation.patience",
)  # fmt: skip
"""The fields that may change in the middle of a run, where the user says so: what is stored keeps its meaning."""

CUT = ("training.batch_size", "training.gradient_accumulation_steps")
"""How a step is cut: where their product stays, the plan of steps does too."""


@dataclass(frozen=True)
class Found:
    """What `--resume` goes on from: the newest verified checkpoint, or the beginning (None); and what the run is."""

    checkpoint: Path | None
    run: Mapping[str, Any]

    @property
    def decided(self) -> tuple[ReferenceSource | None, str | None]:
        """Where the reference of a started run comes from, and its precision: measured once, at a run's start."""
        decided = self.run.get("decided")
        if self.checkpoint is None or decided is None:
            return None, None
        return ReferenceSource(decided["kind"], decided["reason"]), decided["precision"]


NOTHING = Found(None, {})


def shaping(recipe: Recipe) -> dict[str, Any]:
    """Everything in a recipe that shapes the weights."""
    others: Any = {"output": True, "report": True, "training": {"keep_checkpoints", "save_dtype"}}
    return recipe.model_dump(mode="json", by_alias=True, exclude=others)


def identity_of(material: Material) -> dict[str, Any]:
    """What a checkpoint belongs to: everything in the recipe that shapes the weights, and the data's content."""
    identity = {
        "recipe": shaping(material.recipe),
        "data": {name: dataset.fingerprint(rows) for name, rows in material.rows.items()},
        "model": NEW if material.source == NEW else model_files.fingerprint(material.source),
        "reference": [model_files.fingerprint(files.source) for files in material.references],
        "world_size": distributed.world_size(),
    }
    return dict(json.loads(json.dumps(identity)))


def as_begun(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe with what a started run's defaults were, where it leaves them at auto: those of an earlier keeltune
    were others, and later ones may be."""
    then = begun_with(folder)
    kept = {n: v for n, v in rates_as_begun(then).items() if getattr(recipe.training, n) == AUTO}
    return rows_as_begun(then, recipe).model_copy(update={"training": recipe.training.model_copy(update=kept)})


def rates_as_begun(then: Mapping[str, Any]) -> dict[str, int | float]:
    """The epochs and learning rates of a run that was `begun_with` these values; none where none was begun."""
    of_training = then.get("training") or {}
    values = {name: of_training.get(name) for name in ("epochs", "learning_rate", "head_learning_rate")}
    if "head_learning_rate" not in of_training:  # when all weights had one rate
        values["head_learning_rate"] = values["learning_rate"]
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def rows_as_begun(then: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe without validation rows of its own choice, where a run that was `begun_with` these values had none."""
    if not then or recipe.data.validation != AUTO or (then.get("data") or {}).get("validation") is not None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": None})})


def begun_with(folder: Path) -> Mapping[str, Any]:
    """The values of the recipe that a run in `folder` began with; none where none did."""
    with suppress(NotAsWrittenError):
        return dict(run_of(folder)["identity"]["recipe"])
    if not (file := folder / "recipe.yaml").is_file():
        return {}
    return load(file).model_dump(by_alias=True, exclude_unset=True)


def start_run(folder: Path, identity: Mapping[str, Any], job: Job, found: Found, training: int = 1) -> None:
    """Notes what the checkpoints of `folder` will belong to, and what its first start measured and chose; takes away
    what a killed writer left, and checkpoints that were skipped. `training`: its number, where it has none yet.

    Raises StateRefused where a run goes on and its reference has changed: it must read the answers that it began with.
    """
    place, source = folder / checkpoints.FOLDER, job.reference_source
    make_folder(place)
    manifest.sweep(place)
    for _, checkpoint in checkpoints.found(place):
        if checkpoint != found.checkpoint and (found.checkpoint is None or _newer(checkpoint, found.checkpoint)):
            manifest.remove(checkpoint)
    checkpoints.drop_unnamed(place)
    now = {"kind": source.kind, "reason": source.reason, "digest": (source.cache or {}).get("digest")}
    decided = found.run.get("decided") if found.checkpoint else None
    if decided is not None:
        fix = "restore the cache, or start anew with --overwrite"
        then = {name: decided[name] for name in now}
        refuse_other(folder, {"reference": then}, {"reference": now}, fix, holder="the run")
    earlier = [*found.run.get("earlier", [])] if found.checkpoint else []
    if found.checkpoint and found.run["identity"] != identity:
        earlier.append(found.run["identity"])
    run = {
        "identity": identity, "earlier": earlier, "decided": now | {"precision": job.precision},
        "versions": versions(), "training": found.run.get("training", training),
    }  # fmt: skip
    write_atomically(place / RUN, manifest.sealed(run))


def run_of(folder: Path) -> dict[str, Any]:
    """What a started run's `run.json` says. Raises NotAsWrittenError."""
    return {
        name: value for name, value in manifest.opened(folder / checkpoints.FOLDER / RUN).items() if name != "digest"
    }


def newest(
    folder: Path, identity: Mapping[str, Any], recipe: Recipe, display: Display, allowed: Collection[str] = ()
) -> Found:
    """The newest verified checkpoint of this very run, and what was wrong with those that are newer.

    `allowed`: the fields that the user lets change. Raises StateRefused where the run is another one.
    """
    place = folder / checkpoints.FOLDER
    run: dict[str, Any] | None = None
    try:
        run = run_of(folder)
    except NotAsWrittenError as error:
        if checkpoints.found(place):
            display.say(f"warning: {place}: {error}; what the newest checkpoint says of the run is taken")
    if run is not None:
        refuse_changes(folder, run["identity"], identity, recipe, allowed)
    for _, path in checkpoints.found(place):
        try:
            held = checkpoints.verified(path)
        except NotAsWrittenError as error:
            display.say(f"skipping {path.name}: {error}")
            continue
        if run is None:
            run = held["run"]
            refuse_changes(folder, run["identity"], identity, recipe, allowed)
        if held["run"]["identity"] not in (run["identity"], *run["earlier"]):
            display.say(f"skipping {path.name}: it belongs to another run")
            continue
        display.say(f"going on from {path.name}")
        _say_changes(run, identity, display)
        return Found(path, run)
    return Found(None, run or {})


def refuse_unchangeable(allowed: Collection[str]) -> None:
    """UserError for fields that may not change in the middle of a run."""
    problems = [
        Problem("the call", "--allow-change", shown(field) + nearest(field, CHANGEABLE),
                f"one of {name_list(CHANGEABLE)}", "leave it out, or start anew with --overwrite")
        for field in allowed if field not in CHANGEABLE
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def refuse_changes(
    folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], recipe: Recipe, allowed: Collection[str]
) -> None:
    """StateRefused for each field in which a run that goes on differs, unless it may or is `allowed` to.

    A field that the run does not know, as keeltune got it since, is no change while it is at its default.
    """
    chosen = {"recipe": recipe.model_dump(by_alias=True, exclude_defaults=True)}
    same_steps = _step_size(then) == _step_size(now)
    problems = []
    for name, old, new in differences(then, now):
        field = name.removeprefix("recipe.")
        known = _has_field(then, name) or _has_field(chosen, name) or field == name
        if not known or field in allowed or (field in CUT and same_steps):
            continue
        fix = "undo the change, or start anew with --overwrite"
        if field in CHANGEABLE:
            fix = f"undo the change, let it be with --allow-change {field}, or start anew with --overwrite"
        expected = "the recipe, data and number of processes that the run was started with"
        problems.append(
            Problem(str(folder), field, f"{shown(new)} in this recipe, {shown(old)} in the run", expected, fix)
        )
    if problems:
        raise StateRefused(problems)


def _say_changes(run: Mapping[str, Any], identity: Mapping[str, Any], display: Display) -> None:
    if changed := [name.removeprefix("recipe.") for name, _, _ in differences(run["identity"], identity)]:
        display.say(f"from here on with another {name_list(changed)}")
    other = [f"{name} {then}, now {now}" for name, then, now in differences(run["versions"], versions())]
    if other:
        display.say(f"warning: the run was started with {'; '.join(other)}: its end may differ in the last digits")


def versions() -> dict[str, Any]:
    """What a run's last digits depend on."""
    return {
        "keeltune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _step_size(identity: Mapping[str, Any]) -> Any:
    training = identity.get("recipe", {}).get("training", {})
    rows, cuts = training.get("batch_size"), training.get("gradient_accumulation_steps")
    return rows * cuts if rows and cuts else (rows, cuts)


def _newer(one: Path, other: Path) -> bool:
    return int(one.name.removeprefix(checkpoints.PREFIX)) > int(other.name.removeprefix(checkpoints.PREFIX))


def _has_field(values: Any, name: str) -> bool:
    """Whether a dotted field stands in nested mappings, be it as null."""
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True
