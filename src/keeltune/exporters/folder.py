"""The folder of an exported model: the graph, what transformers reads beside it, a card, and the proof.

    model.onnx  config.json  tokenizer.json …  README.md  export.json

`export.json` holds what was measured and the size and digest of each file, sealed as every manifest is; the card is a
text for people, and no part of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.models import sealed_model
from keeltune.utils import manifest
from keeltune.utils.errors import Problem, StateRefused, UserError
from keeltune.utils.files import make_folder, write_text
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.system_faults import persistently

PROOF = "export.json"

SAID = {"task": str, "to": str, "equal": bool, "faults": list, "max_length": int | None}
"""What is asked of an export where it is used."""

BESIDE = (".json", ".jinja", ".txt", ".model")
"""Endings of what transformers reads beside the weights: configuration, labels, tokenizer."""


def refuse_used(folder: Path, *, overwrite: bool) -> None:
    """UserError for a folder that holds something; `overwrite`: something but an export. The folder takes the place of
    what is there, which the one that a command is called from cannot give up."""
    if not folder.name:
        fix = "name a folder in it"
        raise UserError(Problem(str(folder), "--output", "the folder of the call", "a new or an empty folder", fix))
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        exported = (folder / PROOF).is_file()
        if not (overwrite and exported):
            found = "an earlier export" if exported else "something that is no export"
            fix = "add --overwrite, or name another folder" if exported else "name another folder"
            raise UserError(Problem(str(folder), "--output", found, "a new or an empty folder", fix))


def read_proof(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's `export.json`; None where there is none.

    Raises: StateRefused: a file of the export that is not what was written.
    """
    if not (folder / PROOF).is_file():
        return None
    try:
        proof = manifest.verified(folder, name=PROOF)
        if not SAID.keys() <= proof.keys() or not all(isinstance(proof[n], kinds) for n, kinds in SAID.items()):
            raise NotAsWrittenError(f"{PROOF} does not say {', '.join(SAID)}")
        return proof
    except NotAsWrittenError as error:
        fix = "copy the folder again, or write it again: keeltune export RUN --overwrite"
        raise StateRefused(Problem(str(folder), "model", str(error), "the export as keeltune wrote it", fix)) from None


def write_folder(model: Path, folder: Path, write: Callable[[Path], tuple[Mapping[str, Any], str]]) -> dict[str, Any]:
    """The folder, whole or not at all; the content of its `export.json`.

    `model`: the folder of the model that is exported. `write` puts the graph into the folder that it is given, which
    has all else, and returns the facts of the proof and the card.
    """
    staging = folder.with_name(f"{manifest.STAGING}{folder.name}")
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    try:
        persistently(lambda: _beside(model, staging), folder, 2 * weights)
        facts, card = persistently(lambda: write(staging), folder, 2 * weights)
        manifest.seal_folder(staging, facts, name=PROOF)
        write_text(staging / "README.md", card)
        manifest.put_in_place(staging, folder)
    except BaseException:
        with suppress(OSError):
            manifest.remove(staging)
        raise
    return manifest.opened(folder / PROOF)


def _beside(model: Path, staging: Path) -> None:
    manifest.remove(staging)
    make_folder(staging)
    for file in sorted(model.iterdir()):
        if file.suffix in BESIDE and file.name != sealed_model.MANIFEST:
            shutil.copyfile(file, staging / file.name)
