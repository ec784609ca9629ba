"""Models written as plain `save_pretrained` folders, whole or not at all, each sealed by its manifest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from keeltune.models.processors import save_processor
from keeltune.models.sealed_model import MANIFEST
from keeltune.utils import manifest
from keeltune.utils.files import make_folder
from keeltune.utils.system_faults import persistently


def save(model: Any, processor: Any, folder: Path, *, half: torch.dtype | None = None) -> None:
    """A model's folder, written under another name, sealed and then renamed, so that it is never incomplete.

    `half` stores the weights in the half precision that the source had.
    """
    stored = {k: v.to(half) if half and v.is_floating_point() else v for k, v in model.state_dict().items()}

    def write(staging: Path) -> None:
        model.save_pretrained(staging, state_dict=stored, max_shard_size="5GB")
        dtype, model.config.dtype = model.config.dtype, half or torch.float32  # it wrote that of the live weights
        model.config.save_pretrained(staging)
        model.config.dtype = dtype
        save_processor(processor, staging)

    _put(folder, write, sum(value.numel() * value.element_size() for value in stored.values()))


def save_adapter(model: Any, processor: Any, folder: Path) -> None:
    """The adapter of a PEFT model alone, with its labels, which its base has not, and its processor; as `save`."""

    def write(staging: Path) -> None:
        model.save_pretrained(staging)
        whole = model.get_base_model()
        whole.config.save_pretrained(staging)
        if whole.can_generate():
            whole.generation_config.save_pretrained(staging)  # that of its base may be another
        save_processor(processor, staging)
        for card in staging.glob("*.md"):  # peft's own, to be filled in by hand
            card.unlink()

    _put(folder, write, sum(4 * weight.numel() for weight in model.parameters() if weight.requires_grad))


def _put(folder: Path, write: Callable[[Path], None], needed: int) -> None:
    """What `write` writes into a folder of another name, sealed and synced, takes the place of `folder`; where it
    fails, nothing of it stays. `needed`: bytes."""
    staging = folder.with_name(f"{manifest.STAGING}{folder.name}")

    def stage() -> None:
        manifest.remove(staging)
        make_folder(staging)
        write(staging)
        manifest.seal_folder(staging, name=MANIFEST)

    try:
        persistently(stage, folder, needed)
        manifest.put_in_place(staging, folder)
    except BaseException:
        with suppress(OSError):
            manifest.remove(staging)
        raise
