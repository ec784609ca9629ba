"""A finished cache: found and held against what a recipe wants, opened, described, taken away.

A cache of another identity is refused before training with the field that differs and both values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeltune.objective.references.reference import Autocast, CachedAnswers
from keeltune.objective.stored_predictions import Full, Hidden, StoredForm, TopK
from keeltune.training.cache.form_choice import DTYPES
from keeltune.training.cache.identity import CacheRequest, shared_of
from keeltune.training.cache.stored_head import HEAD_FILE, Head, require_head
from keeltune.training.preparation.material import Material
from keeltune.utils import tensor_store
from keeltune.utils.identity import refuse_other
from keeltune.utils.tensor_store import Store


def is_finished(request: CacheRequest) -> bool:
    """Whether a finished cache lies in the folder, of this identity or another."""
    return (request.folder / tensor_store.MANIFEST).is_file()


def find_finished(request: CacheRequest) -> Store | None:
    """The finished cache, held against what is requested; None where there is none.

    Raises StateRefused for another identity or rows that it lacks; BrokenShards where only shards, or the head beside
    them, are not what was written.
    """
    if not is_finished(request):
        return None
    store = opened_store(request)
    manifest = store.manifest
    refuse_other(request.folder, manifest["identity"], request.identity, request.fix)
    form = manifest["form"]
    requested = {n: v for n, v in request.form.items() if n in ("k", "temperature") and form["name"] == "top-k"}
    requested |= {"name": request.form["form"]} if request.form["form"] != "auto" else {}
    requested |= {"dtype": request.form["dtype"]} if request.form["dtype"] != "auto" else {}
    stored = {name: form.get(name) for name in requested}
    refuse_other(request.folder, {"form": stored}, {"form": requested}, request.fix)
    store.verify()
    if manifest.get("head") is not None:
        require_head(store)
    for example in request.examples:
        location = store.location(example.key)
        if location is None or location.content != request.contents[example.key]:
            what = "no answer to" if location is None else "another encoding of"
            raise store.refused("data", f"{what} the row {example.key[:16]}…", "an answer to each row as it is read")
    return store


def opened_store(request: CacheRequest) -> Store:
    """The finished cache, which names the rows of a broken shard: those of the request, in their order."""

    def rows(number: int) -> str:
        sizes = [entry.get("examples", 0) for entry in store.manifest["shards"]]
        if sum(sizes) != len(request.examples):
            return ""
        first = sum(sizes[:number])
        keys = [example.key for example in request.examples[first : first + sizes[number]]]
        more = ", …" if len(keys) > 3 else ""
        return f"; it holds the answers to {len(keys)} rows: {', '.join(map(request.place, keys[:3]))}{more}"

    store = Store(request.folder, request.fix, rows, f"{request.command}, which computes again what is broken")
    return store


def open_answers(store: Store, material: Material, device: str, autocast: Autocast) -> CachedAnswers:
    """A finished cache as `Cached` reads it."""
    facts = store.manifest["form"]
    dtype = DTYPES[facts["dtype"]]
    form: StoredForm
    if facts["name"] == "full":
        form = Full(dtype)
    elif facts["name"] == "top-k":
        form = TopK(facts["k"], facts["temperature"], dtype)
    else:
        head = Head.load(store, device)
        form = Hidden(facts["width"], dtype, head, len(head.weight), autocast)
    return CachedAnswers(store, form, selected(shared_of(material), device))


def selected(ids: Sequence[int] | None, device: str) -> slice | Tensor | None:
    """Those ids as what picks them: a slice where they are the first ones; None: all."""
    if ids is None:
        return None
    return slice(len(ids)) if all(i == position for position, i in enumerate(ids)) else torch.tensor(ids, device=device)


def cache_facts(store: Store) -> dict[str, Any]:
    """What `result.json` says of a cache."""
    manifest = store.manifest
    totals = {n: sum(s.get(n, 0) for s in manifest["shards"]) for n in ("examples", "predictions", "bytes", "mass")}
    kept = totals["mass"] / max(1, totals["predictions"]) if manifest["form"]["name"] == "top-k" else 1.0
    return {
        "folder": str(store.folder),
        "digest": manifest["digest"],
        "form": manifest["form"],
        "examples": totals["examples"],
        "predictions": totals["predictions"],
        "bytes": totals["bytes"],
        "bytes_per_prediction": totals["bytes"] / max(1, totals["predictions"]),
        "mass_kept": kept,
    }


def remove(folder: Path) -> None:
    """Takes a cache away, and nothing else that lies there."""
    names = [tensor_store.MANIFEST, tensor_store.HEAD, HEAD_FILE]
    for file in [
        *(folder / name for name in names),
        *folder.glob("shard-*.safetensors"),
        *folder.glob("shard-*.json"),
        *folder.glob("gate-*.json"),
    ]:
        file.unlink(missing_ok=True)
