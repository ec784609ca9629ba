"""Models written as plain `save_pretrained` folders, whole or not at all, each sealed by its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from keeltune.models.sealed_model import MANIFEST
from keeltune.utils import manifest
from keeltune.utils.files import make_folder


def save(model: Any, processor: Any, folder: Path, *, half: torch.dtype | None = None) -> None:
    """A model's folder, written under another name, sealed and then renamed, so that it is never incomplete.

    `half` stores the weights in the half precision that the source had.
    """
    with _staged(folder) as staging:
        stored = {k: v.to(half) if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
        model.save_pretrained(staging, state_dict=stored, max_shard_size="5GB")
        dtype, model.config.dtype = model.config.dtype, half or torch.float32  # it wrote that of the live weights
        model.config.save_pretrained(staging)
        model.config.dtype = dtype
        processor.save_pretrained(staging)


def save_adapter(model: Any, processor: Any, folder: Path) -> None:
    """The adapter of a PEFT model alone, with its labels, which its base has not, and its processor; as `save`."""
    with _staged(folder) as staging:
        model.save_pretrained(staging)
        model.get_base_model().config.save_pretrained(staging)
        processor.save_pretrained(staging)
        for card in staging.glob("*.md"):  # peft's own, to be filled in by hand
            card.unlink()


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of `folder`, sealed and synced, when the block ends."""
    staging = folder.with_name(f"{manifest.STAGING}{folder.name}")
    manifest.remove(staging)
    make_folder(staging)
    yield staging
    manifest.seal_folder(staging, name=MANIFEST)
    manifest.put_in_place(staging, folder)
