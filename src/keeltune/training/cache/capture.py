"""The reference's distributions ahead of training: what identifies them, how they are captured, when that pays.

A fixed row's distribution never changes, so one forward pass of the reference is enough for all epochs, all runs and
all students, and training needs no teacher in memory. `forms.py` has the forms, `shards.py` the file.

    order      of capture: by length, then key, in shards of fixed size: batches, and so the stored numbers, depend on
               the rows alone, never on the order of the data, the seed, a batch size or the number of processes

A cache of another identity is refused before training with the field that differs and both values.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune.objective.derived_predictions import Shared
from keeltune.objective.predictions import Projected, Rows
from keeltune.objective.references.cached import Cached
from keeltune.objective.references.reference import Autocast, Reference
from keeltune.objective.references.served import Served
from keeltune.objective.stored_predictions import Full, Hidden, StoredForm, TopK
from keeltune.tasks.common import lm_head
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training.cache.identity import VERSION, Wanted, choices_of, shared_of
from keeltune.training.cache.stored_head import HEAD_FILE, Head
from keeltune.training.preparation.material import Material
from keeltune.utils import files, tensor_store
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import OutOfResources, Problem, StateRefused, UserError
from keeltune.utils.identity import refuse_other
from keeltune.utils.progress import Display
from keeltune.utils.tensor_store import Store, Writer

BATCH = 32
"""Examples of a forward pass of the capture: fixed, so that no recipe's batch size changes the stored numbers."""

SHARD_EXAMPLES, SHARDS, SHARD_BYTES = 256, 256, 2**27
"""Examples of a shard at least, shards at most (where their size allows it), and bytes of one."""

MASS = 0.99
"""The share of the probability that k choices must hold on a sample, or the head's input is kept instead."""

SAMPLE = 64
"""Examples on which forms and costs are measured."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def widths_of(task: Task, examples: Sequence[Example], choices: int) -> list[int]:
    """Each example's own number of choices: its places, or C."""
    return [example.length if task.choices == "positions" else choices for example in examples]


# ------------------------------------------------------------------------------------------------------------- reading


def found(want: Wanted) -> Store | None:
    """The finished cache, held against what is wanted; None where there is none.

    Raises StateRefused for another identity, a broken shard, or rows that it lacks.
    """
    if not (want.folder / tensor_store.MANIFEST).is_file():
        return None
    store = Store(want.folder, want.fix)
    manifest = store.manifest
    refuse_other(want.folder, manifest["identity"], want.identity, want.fix)
    form = manifest["form"]
    asked = {n: v for n, v in want.asked.items() if n in ("k", "temperature") and form["name"] == "top-k"}
    asked |= {"name": want.asked["form"]} if want.asked["form"] != "auto" else {}
    asked |= {"dtype": want.asked["dtype"]} if want.asked["dtype"] != "auto" else {}
    stored = {name: form.get(name) for name in asked}
    refuse_other(want.folder, {"form": stored}, {"form": asked}, want.fix)
    store.verify()
    for example in want.examples:
        there = store.location(example.key)
        if there is None or there.content != want.contents[example.key]:
            what = "no answer to" if there is None else "another encoding of"
            raise store.refused("data", f"{what} the row {example.key[:16]}…", "an answer to each row as it is read")
    return store


def opened(store: Store, material: Material, device: str, autocast: Autocast) -> Cached:
    """The reference that reads a finished cache."""
    manifest = store.manifest
    facts, dtype = manifest["form"], DTYPES[manifest["form"]["dtype"]]
    form: StoredForm
    if facts["name"] == "full":
        form = Full(dtype)
    elif facts["name"] == "top-k":
        form = TopK(facts["k"], facts["temperature"], dtype)
    else:
        head = Head.load(store, device)
        form = Hidden(facts["width"], dtype, head, len(head.weight), autocast)
    kept = kept_choices(shared_of(material), device)
    return Cached(store, form, device, kept, "served" if "served" in manifest else "cached")


def kept_choices(ids: Sequence[int] | None, device: str) -> slice | Tensor | None:
    """Those ids as what picks them: a slice where they are the first ones."""
    if ids is None:
        return None
    return slice(len(ids)) if all(i == position for position, i in enumerate(ids)) else torch.tensor(ids, device=device)


# ------------------------------------------------------------------------------------------------------------- capture


def capture(want: Wanted, material: Material, reference: Reference, device: str, display: Display) -> Store:
    """Writes the shards that lack and the manifest. Several processes share the shards; the first one finishes."""
    task = material.task
    form, reason, head = chosen(want, material, reference, device)
    display.say(f"reference: cached as {reason}")
    choices = choices_of(material)
    parts = cut(want.examples, task, form, choices)
    more = {} if head is None else {"head": head.facts()}
    if isinstance(reference, Served):
        more["served"] = reference.identity()
    _room(want.folder, sum(bytes_of(task, form, part, choices) for part in parts))
    writer = Writer(
        want.folder,
        {"version": VERSION, "identity": want.identity, "form": form.facts(), "choices": choices, **more},
        len(parts),
        want.fix,
    )
    rank, world = int(os.environ.get("RANK", "0")), world_size()
    if head is not None and rank == 0:
        files.write_atomically(want.folder / HEAD_FILE, head.content)
    missing = writer.missing()
    mine = [number for number in missing if number % world == rank]
    with display.bar("the reference answers", sum(len(parts[number]) for number in mine)) as advance:
        for number in mine:
            tensors, facts = shard_of(parts[number], want.contents, task, reference, form, choices, device, advance)
            if isinstance(reference, Served):
                reference.verify()  # what was answered is one teacher's
            writer.write(number, tensors, facts)
    if rank == 0:
        for number in {*missing} - {*mine}:
            _wait(partial(writer.whole, number), "the other processes' shards")
        writer.finish()
    _wait(lambda: (want.folder / tensor_store.MANIFEST).is_file(), "the first process's manifest")
    return Store(want.folder, want.fix)


def cut(examples: Sequence[Example], task: Task, form: StoredForm, choices: int) -> list[list[Example]]:
    """The examples in shards: consecutive, of so many examples and bytes at most."""
    most = max(SHARD_EXAMPLES, math.ceil(len(examples) / SHARDS))
    parts: list[list[Example]] = [[]]
    size = 0.0
    for example in examples:
        own = bytes_of(task, form, [example], choices)
        if parts[-1] and (len(parts[-1]) >= most or size + own > SHARD_BYTES):
            parts.append([])
            size = 0.0
        parts[-1].append(example)
        size += own
    return parts


def bytes_of(task: Task, form: StoredForm, examples: Sequence[Example], choices: int) -> float:
    widths = widths_of(task, examples, choices)
    return sum(e.predictions * form.bytes_each(w) for e, w in zip(examples, widths, strict=True))


def shard_of(
    examples: Sequence[Example], contents: Mapping[str, bytes], task: Task, reference: Reference, form: StoredForm,
    choices: int, device: str, advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """A shard's columns and facts: the reference's answers to its examples, batch by batch in their order."""
    columns: list[dict[str, Tensor]] = []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        rows = answers(some, task, reference, form, device)
        columns.append(form.write(rows, [e.predictions for e in some], widths_of(task, some, choices)))
        advance(len(some))
    tensors = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
    counts = [e.predictions for e in examples]
    facts: dict[str, Any] = {"examples": len(examples), "predictions": sum(counts)}
    if form.kind == "top-k":
        facts["mass"] = float((1 - tensors["tail"].double().exp()).sum())
    own = [contents[e.key] for e in examples]
    return {
        **tensor_store.key_columns([e.key for e in examples], own, counts, widths_of(task, examples, choices)),
        **tensors,
    }, facts


@torch.no_grad()
def answers(examples: Sequence[Example], task: Task, reference: Reference, form: StoredForm, device: str) -> Rows:
    """The reference's predictions of some examples, in the order of the examples."""
    if form.kind != "hidden":
        return reference.rows(to_device(task.collate(examples), device))
    alone = sum(e.predictions for e in examples) == 1  # one prediction shows no head that mixes positions
    with lm_head.sliced_from(0):
        rows = reference.rows(to_device(task.collate([*examples, *examples] if alone else examples), device))
    rows = rows.rows if isinstance(rows, Shared) else rows  # the head gives all choices; they are cut when it is read
    return Projected(rows.hidden[:1], rows.head, rows.choices) if alone and isinstance(rows, Projected) else rows


def chosen(want: Wanted, material: Material, reference: Reference, device: str) -> tuple[StoredForm, str, Head | None]:
    """The form that is asked for, or the one that the measured sizes choose, with the reason; and the head to keep."""
    task, asked = material.task, want.asked
    choices = choices_of(material)
    dtype = DTYPES.get(asked["dtype"])
    if asked["form"] == "full":
        full = Full(dtype or torch.float32)
        return full, f"full: {choices} choices, {full.bytes_each(choices):.0f} bytes a prediction", None
    sample = spread(want.examples, SAMPLE)
    if asked["form"] == "hidden":
        hidden, head = hidden_form(sample, task, reference, device, dtype)
        if hidden is None or head is None:
            raise no_head(material)
        return hidden, f"hidden: {hidden.bytes_each(choices):.0f} bytes a prediction and the head", head
    k = min(asked["k"], choices)
    top = TopK(k, asked["temperature"], dtype or torch.float16)
    size = top.bytes_each(choices)
    if asked["form"] == "top-k":
        return top, f"top-k, k = {k}: {size:.0f} bytes a prediction", None
    _, facts = shard_of(sample, want.contents, task, reference, top, choices, device)
    mass = facts["mass"] / max(1, facts["predictions"])
    said = f"{k} of {choices} choices hold {mass:.1%} of the probability on {len(sample)} examples"
    usable = material.recipe.objective.divergence_name != "logit-mse"
    if mass >= MASS and usable:
        return top, f"top-k, k = {k}: {size:.0f} bytes a prediction; {said}", None
    hidden, head = hidden_form(sample, task, reference, device, None)
    if hidden is None or head is None:
        if not usable:
            raise no_head(material)
        return top, f"top-k, k = {k}: {size:.0f} bytes a prediction; {said}, and the head's input cannot be kept", None
    return hidden, f"hidden: {hidden.bytes_each(choices):.0f} bytes a prediction, as {said}", head


def no_head(material: Material) -> UserError:
    found, expected = "a reference whose vocabulary head cannot be kept apart", "one that ends with a linear head"
    place = material.recipe.where("reference")
    return UserError(Problem(place, "reference.form", found, expected, "write form: top-k, or from: online"))


def hidden_form(
    sample: Sequence[Example], task: Task, reference: Reference, device: str, dtype: torch.dtype | None
) -> tuple[Hidden | None, Head | None]:
    """The form `hidden` for this reference and its head; None where the head cannot be kept apart."""
    form = Hidden(0, dtype or torch.float32)
    rows = answers(sample[:BATCH], task, reference, form, device)
    if not isinstance(rows, Projected) or not isinstance(rows.head, lm_head.AppliedHead):
        return None, None
    head = Head.of(rows.head)
    if head is None:
        return None, None
    some, applied = slice(0, 64), rows.head
    within = nullcontext() if applied.dtype is None else torch.autocast(applied.kind, dtype=applied.dtype)
    with within:  # the head that is kept multiplies as its model did
        ours = head(rows.hidden[some])
    ours, theirs = ours.float().log_softmax(-1), rows.log_probs(some)
    if not torch.allclose(ours, theirs, atol=1e-4):
        return None, None
    stored = dtype or rows.hidden.dtype
    return Hidden(rows.hidden.shape[-1], stored if stored in DTYPES.values() else torch.float32), head


def facts(store: Store) -> dict[str, Any]:
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


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly from the shortest to the longest."""
    if len(examples) <= count:
        return list(examples)
    return [examples[round(i)] for i in np.linspace(0, len(examples) - 1, count)]


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _room(folder: Path, needed: float) -> None:
    """Refuses before the start what the disk cannot hold; what is there already counts."""
    there = sum(p.stat().st_size for p in folder.glob("shard-*")) if folder.is_dir() else 0
    free = free_bytes(folder)
    if needed - there > free:
        raise OutOfResources(
            f"the cache {folder} needs {needed - there:.0f} bytes and the disk has {free} free; make room and start "
            "the same command again: finished shards are kept"
        )


def _wait(ready: Callable[[], bool], what: str, every: float = 0.2) -> None:
    """Until it is so; a process that died is the launcher's to notice, which ends the others."""
    said = time.monotonic()
    while not ready():
        time.sleep(every)
        if time.monotonic() - said > 3600:
            raise StateRefused(Problem("the cache", "shards", f"none of {what} for an hour", what, "start it again"))
