"""The reference's distributions, computed once ahead of training and kept.

A fixed row's distribution never changes, so one forward pass of the reference is enough for all epochs, all runs and
all students, and training needs no teacher in memory. `objective/stored_predictions.py` has the forms,
`utils/tensor_store.py` the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from keeltune.objective.references.reference import Reference
from keeltune.training.cache.finished import find_finished, opened_store
from keeltune.training.cache.form_choice import choose_form
from keeltune.training.cache.identity import VERSION, CacheRequest, choices_of
from keeltune.training.cache.shards import AnswerSource, bytes_of, in_shards, shard_of
from keeltune.training.cache.stored_head import HEAD_FILE
from keeltune.training.preparation.material import Material
from keeltune.utils import files, tensor_store
from keeltune.utils.disk_space import require_room
from keeltune.utils.distributed import world_size
from keeltune.utils.errors import Problem, StateRefused, Stopped, UserError
from keeltune.utils.folder_lock import waited_for
from keeltune.utils.progress import Display
from keeltune.utils.tensor_store import BrokenShards, Store, Writer


def find_or_capture(
    request: CacheRequest, material: Material, live: Callable[[], Reference], device: str, display: Display
) -> Store:
    """The finished cache, or a new one from the `live` reference, which also mends what is broken of a finished one.

    Raises BrokenShards where it cannot be mended, as its server does not answer.
    """
    try:
        if (store := find_finished(request)) is not None:
            return store
    except BrokenShards as broken:
        display.say(f"warning: {broken.problems[0].found}; what is broken of {request.folder} is computed again")
        try:
            return capture(request, material, live(), device, display)
        except StateRefused:
            raise
        except (Stopped, UserError) as error:
            raise broken from error
    return capture(request, material, live(), device, display)


def capture(request: CacheRequest, material: Material, reference: Reference, device: str, display: Display) -> Store:
    """Writes the shards that lack and the manifest. Several processes share the shards; the first one finishes.

    Of several runs that want the same cache the later ones wait for the first, and find it finished.
    """
    if os.environ.get("RANK", "0") != "0":
        return _capture(request, material, reference, device, display)
    with waited_for(request.folder, display.say):
        with suppress(BrokenShards):  # which are computed again
            if (store := find_finished(request)) is not None:
                return store
        return _capture(request, material, reference, device, display)


def _capture(request: CacheRequest, material: Material, reference: Reference, device: str, display: Display) -> Store:
    task, source = material.task, AnswerSource(material.task, reference, choices_of(material), device)
    form, reason, head = choose_form(request, material, source)
    display.say(f"reference: cached as {reason}")
    shards = in_shards(request.examples, task, form, source.choices)
    more = {} if head is None else {"head": head.facts()}
    if identity := dict(reference.identity()):
        more["served"] = identity
    present = sum(shard.stat().st_size for shard in request.folder.glob("shard-*"))
    needed = sum(bytes_of(task, form, shard, source.choices) for shard in shards)
    require_room(request.folder, needed - present, "the cache, whose finished shards are kept,")
    writer = Writer(
        request.folder,
        {"version": VERSION, "identity": request.identity, "form": form.facts(), "choices": source.choices, **more},
        len(shards),
        request.fix,
    )
    rank, world = int(os.environ.get("RANK", "0")), world_size()
    if head is not None and rank == 0:
        files.write_atomically(request.folder / HEAD_FILE, head.content)
    missing = writer.missing()
    mine = [number for number in missing if number % world == rank]
    with display.bar("the reference answers", sum(len(shards[number]) for number in mine)) as advance:
        for number in mine:
            tensors, facts = shard_of(shards[number], request.contents, source, form, advance)
            reference.verify()  # what a server answered is one teacher's
            writer.write(number, tensors, facts)
    if rank == 0:
        for number in {*missing} - {*mine}:
            _wait(partial(writer.whole, number), "the other processes' shards")
        writer.finish()
    _wait(lambda: (request.folder / tensor_store.MANIFEST).is_file(), "the first process's manifest")
    return opened_store(request)


def _wait(ready: Callable[[], bool], what: str, interval: float = 0.2) -> None:
    """Until it is so; a process that died is the launcher's to notice, which ends the others."""
    start = time.monotonic()
    while not ready():
        time.sleep(interval)
        if time.monotonic() - start > 3600:
            raise StateRefused(Problem("the cache", "shards", f"none of {what} for an hour", what, "start it again"))
