"""A run that dies in the middle of a step, what it leaves behind, and whether two runs ended with the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from keeltune.training.trainer import KeelTrainer


class Killed(BaseException):
    """What stands for `kill -9`: nothing of ours may catch it."""


def kill_at(monkeypatch, step: int) -> None:
    """Dies in the middle of optimizer step `step` + 1, after its batches were fetched."""
    original = KeelTrainer.compute_loss

    def dying(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", dying)


def copy_at(monkeypatch, copies: Mapping[int, tuple[Path, Path]]) -> None:
    """Copies a run's folder in the middle of optimizer step `step` + 1, for each `step: (folder, copy)`.

    The copy is what `kill -9` at that moment would leave: one whole run serves as many killed ones as it has copies.
    """
    original, left = KeelTrainer.compute_loss, dict(copies)

    def copying(self, *args, **kwargs):
        if folders := left.pop(self.state.global_step, None):
            shutil.copytree(*folders)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(KeelTrainer, "compute_loss", copying)


def same(a: Path, b: Path) -> bool:
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (a, b))
    return left.keys() == right.keys() and all(left[k].equal(right[k]) for k in left)
