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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keeltune import drift, shards
from keeltune.cache_identity import EXACT, VERSION, Wanted, choices_of, place, shared_of
from keeltune.display import Display
from keeltune.families import vocabulary
from keeltune.families.causal import Causal
from keeltune.fitting import NEW
from keeltune.forms import Form, Full, Hidden, TopK
from keeltune.kept_head import HEAD_FILE, Head
from keeltune.objective import Objective
from keeltune.prepare import Material, world_size
from keeltune.problems import OutOfResources, Problem, StateRefused, UserError
from keeltune.references.cached import Cached
from keeltune.references.reference import Autocast, Reference
from keeltune.references.served import Served
from keeltune.rows import Projected, Rows, Shared
from keeltune.shards import Store, Writer
from keeltune.tasks.task import DRAWN, Example, Task, to_device

BATCH = 32
"""Examples of a forward pass of the capture: fixed, so that no recipe's batch size changes the stored numbers."""

SHARD_EXAMPLES, SHARDS, SHARD_BYTES = 256, 256, 2**27
"""Examples of a shard at least, shards at most (where their size allows it), and bytes of one."""

MASS = 0.99
"""The share of the probability that k choices must hold on a sample, or the head's input is kept instead."""

SAMPLE, WORTH = 64, 5.0
"""Examples on which forms and costs are measured, and the seconds that a cache must save to be worth its files."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


def widths_of(task: Task, examples: Sequence[Example], choices: int) -> list[int]:
    """Each example's own number of choices: its places, or C."""
    return [example.length if task.choices == "positions" else choices for example in examples]


# ------------------------------------------------------------------------------------------------------------- reading


def found(want: Wanted) -> Store | None:
    """The finished cache, held against what is wanted; None where there is none.

    Raises StateRefused for another identity, a broken shard, or rows that it lacks.
    """
    if not (want.folder / shards.MANIFEST).is_file():
        return None
    store = Store(want.folder, want.mend)
    manifest = store.manifest
    shards.refuse_other(want.folder, manifest["identity"], want.identity, want.mend)
    form = manifest["form"]
    asked = {n: v for n, v in want.asked.items() if n in ("k", "temperature") and form["name"] == "top-k"}
    asked |= {"name": want.asked["form"]} if want.asked["form"] != "auto" else {}
    asked |= {"dtype": want.asked["dtype"]} if want.asked["dtype"] != "auto" else {}
    stored = {name: form.get(name) for name in asked}
    shards.refuse_other(want.folder, {"form": stored}, {"form": asked}, want.mend)
    store.verify()
    for example in want.examples:
        there = store.place(example.key)
        if there is None or there.content != want.contents[example.key]:
            what = "no answer to" if there is None else "another encoding of"
            raise store.refused("data", f"{what} the row {example.key[:16]}…", "an answer to each row as it is read")
    return store


def opened(store: Store, material: Material, device: str, autocast: Autocast) -> Cached:
    """The reference that reads a finished cache."""
    manifest = store.manifest
    facts, dtype = manifest["form"], DTYPES[manifest["form"]["dtype"]]
    form: Form
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
    _room(want.folder, sum(_bytes(task, form, part, choices) for part in parts))
    writer = Writer(
        want.folder,
        {"version": VERSION, "identity": want.identity, "form": form.facts(), "choices": choices, **more},
        len(parts),
        want.mend,
    )
    rank, world = int(os.environ.get("RANK", "0")), world_size()
    if head is not None and rank == 0:
        shards.seal(want.folder / HEAD_FILE, head.content)
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
    _wait(lambda: (want.folder / shards.MANIFEST).is_file(), "the first process's manifest")
    return Store(want.folder, want.mend)


def cut(examples: Sequence[Example], task: Task, form: Form, choices: int) -> list[list[Example]]:
    """The examples in shards: consecutive, of so many examples and bytes at most."""
    most = max(SHARD_EXAMPLES, math.ceil(len(examples) / SHARDS))
    parts: list[list[Example]] = [[]]
    size = 0.0
    for example in examples:
        own = _bytes(task, form, [example], choices)
        if parts[-1] and (len(parts[-1]) >= most or size + own > SHARD_BYTES):
            parts.append([])
            size = 0.0
        parts[-1].append(example)
        size += own
    return parts


def _bytes(task: Task, form: Form, examples: Sequence[Example], choices: int) -> float:
    widths = widths_of(task, examples, choices)
    return sum(e.predictions * form.bytes_each(w) for e, w in zip(examples, widths, strict=True))


def shard_of(
    examples: Sequence[Example], contents: Mapping[str, bytes], task: Task, reference: Reference, form: Form,
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
        **shards.index([e.key for e in examples], own, counts, widths_of(task, examples, choices)),
        **tensors,
    }, facts


@torch.no_grad()
def answers(examples: Sequence[Example], task: Task, reference: Reference, form: Form, device: str) -> Rows:
    """The reference's predictions of some examples, in the order of the examples."""
    if form.kind != "hidden":
        return reference.rows(to_device(task.collate(examples), device))
    alone = sum(e.predictions for e in examples) == 1  # one prediction shows no head that mixes positions
    with vocabulary.sliced_from(0):
        rows = reference.rows(to_device(task.collate([*examples, *examples] if alone else examples), device))
    rows = rows.rows if isinstance(rows, Shared) else rows  # the head gives all choices; they are cut when it is read
    return Projected(rows.hidden[:1], rows.head, rows.choices) if alone and isinstance(rows, Projected) else rows


def chosen(want: Wanted, material: Material, reference: Reference, device: str) -> tuple[Form, str, Head | None]:
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
    if not isinstance(rows, Projected) or not isinstance(rows.head, vocabulary.Applied):
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


# --------------------------------------------------------------------------------------------------------- is it worth


def worth(
    material: Material, every: Sequence[Example], reference: Reference, device: str, passes: float
) -> tuple[bool, str]:
    """Whether a cache saves time, measured here: `passes` forward passes of an example online, or one and reading.

    `every`: all examples, each once, the shortest first. Only exact forms count, so that the choice never changes what
    is trained.
    """
    task, examples, folder = material.task, spread(every, SAMPLE), place(material)
    start = time.perf_counter()
    for first in range(0, len(examples), BATCH):
        reference.rows(to_device(task.collate(examples[first : first + BATCH]), device))
    each = (time.perf_counter() - start) / len(examples)
    saved = (passes - len(every)) * each
    if saved < WORTH:
        return False, f"online: a cache would save {max(0.0, saved):.0f} s of forward passes"
    choices = choices_of(material)
    form: Form | None = Full() if choices <= EXACT else hidden_form(examples, task, reference, device, None)[0]
    if form is None:
        return False, "online: no exact form fits its head, and from: auto keeps no other"
    total = _bytes(task, form, every, choices)
    free = _free(folder)
    if total > free / 2:
        return False, f"online: a cache would take {total / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"
    moved = total * (1 + passes / len(every)) * seconds_a_byte(folder)
    said = (
        f"{passes:.0f} answers online take about {passes * each:.0f} s; a cache {len(every) * each:.0f} s once "
        f"and {moved:.1f} s for {total / 2**20:.0f} MiB"
    )
    return (True, f"cached: {said}") if moved < 0.9 * saved else (False, f"online: {said}")


def seconds_a_byte(folder: Path) -> float:
    """How long a byte takes to be written, synced and read, measured with 4 MiB where the cache will lie."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    file, content = there / f".staging-{os.getpid()}-speed", b"\0" * 2**22
    start = time.perf_counter()
    try:
        shards.seal(file, content)
        file.read_bytes()
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
    return (time.perf_counter() - start) / len(content)


def fits(material: Material, examples: Iterable[Example]) -> str | None:
    """Why the reference's answers cannot be cached at all; None where they can."""
    if any(DRAWN in example.notes for example in examples):
        return "texts that the student draws are other ones in every step"
    if material.recipe.objective.matching:
        return "matching compares the layers of both models"
    if material.source == NEW and material.from_model:
        return "a new model"
    spec, form = material.recipe.reference_spec(), getattr(material.task, "form", None)
    of_text = isinstance(form, Causal) and material.task.reads == "text"
    if spec is not None and spec.origin == "served" and not of_text:
        return "a server answers to a decoder's text alone"
    return None


def divergence_to_live(
    store: Store,
    want: Wanted,
    material: Material,
    live: Reference,
    objective: Objective,
    device: str,
    autocast: Autocast,
) -> tuple[float, int]:
    """D(cached ‖ live) in nats a prediction on a sample, and on how many predictions: what a cache loses."""
    cached = opened(store, material, device, autocast)
    examples = spread(want.examples, SAMPLE)
    return drift.between(material.task, objective, live.rows, cached, examples, device=device)


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
    names = [shards.MANIFEST, shards.HEAD, HEAD_FILE]
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


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _room(folder: Path, needed: float) -> None:
    """Refuses before the start what the disk cannot hold; what is there already counts."""
    there = sum(p.stat().st_size for p in folder.glob("shard-*")) if folder.is_dir() else 0
    free = _free(folder)
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
