"""Where the state of a training is saved and loaded: all of it, here.

    checkpoints/
      run.json                       what the checkpoints belong to (`run_identity.py`)
      checkpoint-N/                  after step N, its evaluation and its choice of the best
        rank-0.safetensors           weights that train, buffers, moments, schedule, averages, random state
        rank-R.safetensors           what another process has of its own: its random state; where weights are sharded
                                     (`sharding.py`), each process its part of all
        trainer_state.json           the Trainer's: the history of evaluations, `TrainingTotals`
        manifest.json                size and SHA-256 of each file and of the best weights, and whose they are
      best-N.safetensors             the best weights so far, of those that train; rotated with what names it

A folder of that name is whole: it is staged, digested, synced and renamed, and its manifest is written last, by the
first process. Tensors go by the names of the model's weights. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.trainer_callback import ExportableState

from keeltune.training.model_tensors import load_tensors, weights_that_change
from keeltune.training.optimizer_state import load_optimizer_state, optimizer_state
from keeltune.training.random_state import random_state, restore_random_state
from keeltune.utils import distributed, manifest, tensor_tree
from keeltune.utils.errors import Diverged, Problem, StateRefused
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.sharded_tensors import gathered_tensors, is_sharded, local, local_tree, reshard
from keeltune.utils.system_faults import persistently, system_faults

FOLDER = "checkpoints"
"""Below a run's folder."""

PREFIX = "checkpoint-"

BEST_PREFIX = "best-"

TRAINER_STATE = "trainer_state.json"
"""The name under which the Trainer looks for it."""


class Stateful(Protocol):
    """What has tensors of its own that a checkpoint must hold for a run to go on to the bit."""

    @property
    def name(self) -> str: ...

    def state(self) -> Mapping[str, Tensor]: ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


class Training(Protocol):
    """What is saved of a trainer."""

    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    state: Any
    args: Any
    control: Any
    callback_handler: Any
    begun: list[dict[str, Any]]
    stateful: list[Stateful]
    best: BestWeights | None
    run: Mapping[str, Any]


# ------------------------------------------------------------------------------------------------------ one checkpoint


def save(training: Training) -> None:
    """A checkpoint of this step, in all processes; then older ones go.

    Raises: Diverged: a weight or a moment that is no finite number, of which nothing is saved. OutOfResources.
    """
    args, step = training.args, training.state.global_step
    place, best = Path(args.output_dir), training.best.kept if training.best is not None else None
    folder, staging = place / f"{PREFIX}{step}", place / f"{manifest.STAGING}{PREFIX}{step}"

    def stage() -> None:
        state = _state(training)
        _refuse_broken(state, step)
        with system_faults(place):
            staging.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel() * tensor.element_size() for _, tensor in tensor_tree.tensors_of(state))
        persistently(partial(tensor_tree.save, state, staging / _file(args.process_index)), place, size)

    def finish() -> None:
        if args.process_index:
            return
        _note_callbacks(training)
        with system_faults(place):
            training.state.save_to_json(str(staging / TRAINER_STATE))
            manifest.seal_folder(staging, {"step": step, "best": best, "run": training.run})
            manifest.put_in_place(staging, folder)

    try:
        distributed.together(stage)
        distributed.together(finish)
    except BaseException:
        with suppress(OSError):
            manifest.sweep(place, [staging.name])
        raise
    if not args.process_index:
        with suppress(OSError):  # what could not be removed is in nobody's way, and the next save tries again
            manifest.sweep(place, [f"{manifest.TRASH}*"])
            rotate(place, args.save_total_limit)
            drop_unnamed(place, best)


def _state(training: Training) -> dict[str, Any]:
    """All that a process must have to go on; the others have the first one's but for their random state, and for the
    parts of weights and moments that they hold."""
    reshard(training.model)
    if training.args.process_index and not is_sharded(training.model):
        return {"random": random_state()}
    state = {
        "weights": weights_that_change(training.model, training.optimizer),
        "buffers": dict(training.model.named_buffers()),
        "optimizer": optimizer_state(training.optimizer, training.lr_scheduler, training.model, training.begun),
        "parts": {part.name: dict(part.state()) for part in training.stateful},
        "random": random_state(),
    }
    return dict(local_tree(state))


def _refuse_broken(state: Mapping[str, Any], step: int) -> None:
    parts = {name: state.get(name, {}) for name in ("weights", "optimizer", "parts")}
    for name, tensor in tensor_tree.tensors_of(parts):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            kind, _, which = name.lstrip("/").partition("/")
            raise Diverged(
                f"after step {step} not all numbers of {which} ({kind}) are finite; this step was not saved. "
                "Lower learning_rate, or use precision: fp32."
            )


def _note_callbacks(training: Training) -> None:
    """Puts what the callbacks added up into the Trainer's state, from which the Trainer takes it back."""
    stored: dict[str, Any] = {}
    for callback in (*training.callback_handler.callbacks, training.control):
        if isinstance(callback, ExportableState):
            stored.setdefault(type(callback).__name__, []).append(callback.state())
    training.state.stateful_callbacks = {name: values if len(values) > 1 else values[0]
                                         for name, values in stored.items()}  # fmt: skip


def rotate(place: Path, limit: int | None) -> None:
    """Takes the oldest checkpoints away, by their steps: all but `limit`."""
    for _, folder in found(place)[limit:] if limit else ():
        manifest.remove(folder)


def drop_unnamed(place: Path, kept: Mapping[str, Any] | None = None) -> None:
    """Takes away best weights that no checkpoint names, and that are not those which are `kept`."""
    named = {(kept or {}).get("file")}
    for _, folder in found(place):
        with suppress(NotAsWrittenError):
            named.add((manifest.opened(folder / manifest.MANIFEST)["best"] or {}).get("file"))
    for file in place.glob(f"{BEST_PREFIX}*"):
        if file.name not in named:
            file.unlink(missing_ok=True)


def found(place: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder with their steps, the newest first; only their names are looked at."""
    numbers = [(folder.name.removeprefix(PREFIX), folder) for folder in place.glob(f"{PREFIX}*") if folder.is_dir()]
    return sorted(((int(n), folder) for n, folder in numbers if n.isdecimal()), reverse=True)


# ------------------------------------------------------------------------------------------------------- read it again


def verified(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint that holds, with its best weights, what was written. Raises NotAsWrittenError."""
    held = manifest.verified(folder)
    if held["best"] is not None:
        manifest.check(folder.parent / held["best"]["file"], held["best"])
    return held


class Checkpoint:
    """A verified checkpoint, as one process reads it: of a sharded model each has a part of its own."""

    def __init__(self, folder: Path, rank: int, model: nn.Module):
        self.folder, self.step = folder, int(folder.name.removeprefix(PREFIX))
        holder = rank if is_sharded(model) else 0
        self.state = tensor_tree.load(folder / _file(holder))
        self.random = self.state["random"] if rank == holder else tensor_tree.load(folder / _file(rank))["random"]
        self.best = manifest.opened(folder / manifest.MANIFEST)["best"]

    def load_weights(self, model: nn.Module) -> None:
        """Weights and buffers, in place. Raises StateRefused where they are those of another model."""
        now = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        weights = self.state["weights"]
        every = dict(model.named_parameters())
        other = sorted((weights.keys() - every.keys()) | (now.keys() - weights.keys()))
        other += [name for name in weights if name in every and weights[name].shape != local(every[name]).shape]
        if other:
            raise self.refused(f"{len(other)} weights that the model and the checkpoint do not share ({other[0]}, …)")
        load_tensors(model, weights, self.state["buffers"])

    def load_optimizer(self, training: Training) -> None:
        """Moments, schedule, and what averages and regularisers have of their own."""
        try:
            optimizer, schedule = training.optimizer, training.lr_scheduler
            load_optimizer_state(optimizer, schedule, training.model, self.state["optimizer"])
        except ValueError as error:
            raise self.refused(str(error)) from error
        for part in training.stateful:
            if state := self.state["parts"].get(part.name):
                part.load_state(state)

    def load_random(self) -> None:
        restore_random_state(self.random)

    def refused(self, found: str) -> StateRefused:
        expected, fix = "the state of this model, as this version saves it", "start anew with --overwrite"
        return StateRefused(Problem(str(self.folder), "checkpoint", found, expected, fix))


def _file(rank: int) -> str:
    return f"rank-{rank}.safetensors"


# ---------------------------------------------------------------------------------------------------- the best weights


class BestWeights:
    """The best weights so far: those that training changes, and the buffers. `kept`: the file's name, size and digest.

    A file is never written over: a checkpoint names the one that was the best when it was written.
    """

    def __init__(self, place: Path, kept: Mapping[str, Any] | None = None):
        self.place, self.kept = place, kept

    def save(self, model: nn.Module, step: int) -> None:
        """These weights take the others' place: the first process writes them, and all know of the file, which is on
        disk when this returns."""
        file = self.place / f"{BEST_PREFIX}{step}.safetensors"
        reshard(model)
        held = {"weights": gathered_tensors(weights_that_change(model)), "buffers": dict(model.named_buffers())}

        def write() -> None:
            if distributed.is_main_process():
                persistently(partial(self._write, held, file), file)

        distributed.together(write)
        self.kept = distributed.gathered(self.kept)[0]

    def _write(self, held: Mapping[str, Any], file: Path) -> None:
        staging = self.place / f"{manifest.STAGING}{file.name}"  # a folder: safetensors has temporary files of its own
        staged = staging / file.name
        try:
            staging.mkdir(exist_ok=True)
            tensor_tree.save(held, staged)
            manifest.sync(staged)
            self.kept = {"file": file.name, **manifest.entry(staged)}
            staged.replace(file)
            manifest.sync(self.place)
            drop_unnamed(self.place, self.kept)
        finally:
            with suppress(OSError):
                manifest.sweep(self.place, [staging.name])

    def load(self, model: nn.Module) -> None:
        """Puts them back into the model. Raises StateRefused where the file is not what was written."""
        assert self.kept is not None
        file = self.place / self.kept["file"]
        try:
            manifest.check(file, self.kept)
        except NotAsWrittenError as error:
            expected = "the best weights, as training wrote them"
            fix = "go on with --resume: training is taken up before they were written"
            raise StateRefused(Problem(str(file), "checkpoints", str(error), expected, fix)) from error
        state = tensor_tree.load(file)
        load_tensors(model, state["weights"], state["buffers"])
