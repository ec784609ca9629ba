"""Where the state of a training is saved and loaded: all of it, here.

    checkpoints/
      identity.json                 what the checkpoints belong to: recipe, data, models, number of processes
      reference.json                what the first start measured and chose
      checkpoint-N/                 the Trainer's own, after step N: weights, optimizer, schedule, random state,
                                    trainer_state.json with the history of evaluations and `TrainingTotals`
      checkpoint-N/state.*.safetensors   what regularisers and the mean of two evaluations have of their own
      best.safetensors              the best weights so far, of those that train; none of the rotated checkpoints

The Trainer writes and reads what is its own; when it does, and under which names, is said here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from keeltune.data import dataset
from keeltune.models import model_files
from keeltune.recipe.fields import Recipe
from keeltune.training.job import Job, ReferenceSource
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.utils import distributed
from keeltune.utils.errors import Problem, StateRefused, UserError, shown
from keeltune.utils.files import write_text
from keeltune.utils.identity import differences, refuse_other
from keeltune.utils.json import read_json
from keeltune.utils.progress import Display

FOLDER = "checkpoints"
"""Below a run's folder."""

IDENTITY = "identity.json"

DECIDED = "reference.json"

BEST = "best.safetensors"


class Stateful(Protocol):
    """What has tensors of its own that a checkpoint must hold for a run to go on to the bit."""

    @property
    def name(self) -> str: ...

    def state(self) -> Mapping[str, Tensor]: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


# --------------------------------------------------------------------------------------- the run that they belong to


def start_run(folder: Path, identity: Mapping[str, Any], job: Job, *, resumed: bool) -> None:
    """Notes what the checkpoints of `folder` will belong to, and what its first start measured and chose.

    Raises StateRefused where a run goes on and its reference has changed: it must read the answers that it began with.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_text(folder / FOLDER / IDENTITY, json.dumps(identity, indent=1))
    file, source = folder / FOLDER / DECIDED, job.reference_source
    now = {"kind": source.kind, "reason": source.reason, "digest": (source.cache or {}).get("digest")}
    if resumed and file.is_file():
        then = read_json(file, kind=dict)
        then.pop("precision", None)
        if then != now:
            fix = "restore the cache, or start anew with --overwrite"
            refuse_other(folder, {"reference": then}, {"reference": now}, fix, holder="the run")
    write_text(file, json.dumps(now | {"precision": job.precision}))


def decided(folder: Path) -> tuple[ReferenceSource | None, str | None]:
    """Where the reference of a started run comes from, and its precision: `auto` is measured once, at a run's start."""
    try:
        stored = read_json(folder / FOLDER / DECIDED, kind=dict)
        return ReferenceSource(stored["kind"], stored["reason"]), stored.get("precision")
    except (UserError, KeyError):
        return None, None


def identity_of(material: Material) -> dict[str, Any]:
    """What a checkpoint belongs to: everything in the recipe that shapes the weights, and the data's content."""
    return {
        "recipe": material.recipe.model_dump(mode="json", by_alias=True, exclude={"output", "report"}),
        "data": {name: dataset.fingerprint(rows) for name, rows in material.rows.items()},
        "model": NEW if material.source == NEW else model_files.fingerprint(material.source),
        "reference": [model_files.fingerprint(files.source) for files in material.references],
        "world_size": distributed.world_size(),
    }


def newest(folder: Path, identity: dict[str, Any], recipe: Recipe, display: Display) -> Path | None:
    """The newest whole checkpoint of this very run, or None where it has none yet.

    A field that the run does not know, as keeltune got it since, is no change while it is at its default.
    """
    file = folder / FOLDER / IDENTITY
    if not file.is_file():
        display.say(f"{folder} holds no checkpoint yet; starting from the beginning")
        return None
    stored = read_json(file, kind=dict)
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
        if _has_field(stored, name) or _has_field(chosen, name) or not name.startswith("recipe.")
    ]
    if problems:
        raise StateRefused(problems)
    for path in sorted((folder / FOLDER).glob("checkpoint-*"), key=lambda p: -int(p.name.rsplit("-", 1)[1])):
        if (path / "trainer_state.json").is_file() and (path / "optimizer.pt").is_file():
            display.say(f"going on from {path.name}")
            return path
        display.say(f"skipping {path.name}: it is not whole")
    display.say(f"{folder} holds no checkpoint yet; starting from the beginning")
    return None


def _has_field(values: Any, name: str) -> bool:
    """Whether a dotted field stands in nested mappings, be it as null."""
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


# -------------------------------------------------------------------------------------------------- one checkpoint


@contextmanager
def live_names(model: Any) -> Iterator[None]:
    """Within: the Trainer saves the model's weights under the names that the live model has.

    Those of many architectures (GPT-NeoX, ViT, Llava) are saved under the names of their first release. The Trainer
    does not translate them back: it would find none of its own, and go on from the weights of the start.
    """
    attributes = model.__dict__
    if isinstance(model, PreTrainedModel):  # an adapter is saved alone, under its own names
        attributes["save_pretrained"] = partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        attributes.pop("save_pretrained", None)


def save_states(checkpoint: Path, stateful: Sequence[Stateful]) -> None:
    """What has a state, a file each beside the checkpoint's weights; and no configuration that the Trainer cannot read.

    It reads one to compare versions, by the class of all configurations, which refuses the kinds of layers that only
    some classes know (DeepSeek-V4). A checkpoint's model is made of the recipe, never of this file.
    """
    with suppress(FileNotFoundError):
        try:
            PreTrainedConfig.from_json_file(checkpoint / CONFIG_NAME)
        except StrictDataclassClassValidationError:
            (checkpoint / CONFIG_NAME).unlink()
    for part in stateful:
        if state := part.state():
            tensors = {name: value.cpu().contiguous() for name, value in state.items()}
            save_file(tensors, checkpoint / _state_file(part))


def load_states(checkpoint: Path, stateful: Sequence[Stateful]) -> None:
    """Each gets back what it had; one that had nothing yet is left alone."""
    for part in stateful:
        if (file := checkpoint / _state_file(part)).is_file():
            part.load_state(load_file(file))


def _state_file(part: Stateful) -> str:
    return f"state.{re.sub(r'[^A-Za-z0-9_.]', '-', part.name)}.safetensors"


def refuse_other_weights(model: Any, checkpoint: Path) -> None:
    """Raises StateRefused where a checkpoint has weights that the model does not: the Trainer would pass over them."""
    file = checkpoint / SAFE_WEIGHTS_NAME
    if not file.is_file():  # an adapter's
        return
    with safe_open(file, "pt") as stored:
        names = sorted({*stored.keys()} - {*model.state_dict()})
    if names:
        found = f"{len(names)} weights that the model does not have ({names[0]}, …)"
        expected, fix = "the weights of this model, as this version saves them", "start anew with --overwrite"
        raise StateRefused(Problem(str(checkpoint), "checkpoint", found, expected, fix))


# ---------------------------------------------------------------------------------------------------- the best weights


def save_best(model: Any, file: Path) -> None:
    """The weights that training changes (and the buffers), in place of those that `file` held."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items() if k not in frozen}
    staging = file.with_name(f".staging-{file.name}")
    save_file(state, staging)
    staging.replace(file)


def load_best(model: Any, file: Path) -> None:
    """Puts them back into the model."""
    model.load_state_dict(load_file(file), strict=False)
