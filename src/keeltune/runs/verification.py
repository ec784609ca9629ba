"""A run, a model, an export or a cache held against the digests that it was written with: `kt.verify`.

run      its own files and its result, its checkpoints by their manifests, and what it was made of: data, models, cache
model    the files of its manifest
export   those of its `export.json`
cache    its manifest, each shard, and the head beside them
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from keeltune.exporters import folder as exported
from keeltune.models import model_files, sealed_model
from keeltune.runs import digests
from keeltune.runs.stored_result import read_result
from keeltune.training import checkpoints, run_identity
from keeltune.training.cache.stored_head import require_head
from keeltune.utils import manifest, tensor_store
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.json_lines import read_lines
from keeltune.utils.manifest import NotAsWrittenError
from keeltune.utils.tensor_store import BrokenShards, Store

State = Literal["same", "differs", "missing", "added"]


@dataclass(frozen=True)
class Finding:
    """One thing: its name as seen from the folder, what became of it, how it differs, and what mends that."""

    name: str
    state: State
    found: str = ""
    fix: str = ""

    @property
    def is_sound(self) -> bool:
        return self.state == "same"


def verify(path: str | Path) -> list[Finding]:
    """Reads again all that has a digest in a run's folder, a model's, an export's or a cache's: a `Finding` each.

    Raises: UserError: a folder that is none of these, or a model that another program wrote.
    """
    folder = Path(path)
    if not folder.is_dir():
        expected = "the folder of a run, a model, an export or a cache"
        raise UserError(Problem(str(folder), "", "no such folder", expected, "correct the path"))
    for is_one, findings in ((_is_run, _run), (_is_cache, _cache), (_is_export, _export), (_is_model, _model)):
        if is_one(folder):
            return list(findings(folder))
    found = "no run, no cache, and no model that keeltune wrote"
    if (folder / "config.json").is_file():
        found = f"a model without {sealed_model.MANIFEST}: nothing says what it should hold"
    expected = "a run folder, a model that keeltune wrote, or a cache of a reference's answers"
    raise UserError(Problem(str(folder), "", found, expected, "name one of these"))


def _is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() or (folder / checkpoints.FOLDER).is_dir()


def _is_cache(folder: Path) -> bool:
    return (folder / tensor_store.MANIFEST).is_file() or (folder / tensor_store.shard_name(0)).is_file()


def _is_export(folder: Path) -> bool:
    return (folder / exported.PROOF).is_file()


def _is_model(folder: Path) -> bool:
    return (folder / sealed_model.MANIFEST).exists()


# ------------------------------------------------------------------------------------------------------------- a run


def _run(folder: Path) -> Iterator[Finding]:
    again = digests.again(folder)
    result: dict[str, Any] = {}
    if (folder / "result.json").is_file():
        try:
            result = read_result(folder)
        except UserError as error:
            for problem in error.problems:
                yield Finding("result.json", "differs", f"{problem.where} · {problem.field}: {problem.found}", again)
    elif (folder / "model").is_dir():
        yield Finding("result.json", "missing", "a model is there, and no result", again)
    if told := result.get("digests"):
        own = told["result"] == digests.own(result)
        yield Finding("result.json", "same" if own else "differs", "" if own else "another digest than its own", again)
        for name, entry in told["files"].items():
            yield _compared(folder / name, entry, name, again)
        for name in sorted({*digests.names_in(folder)} - {*told["files"]}):
            yield Finding(name, "added", "a file that the run did not write", "take it away")
    yield from _checkpoints(folder / checkpoints.FOLDER)
    if told:
        yield from _inputs(folder, told)
    for part in (result.get("seeds") or {}).get("folders", []):
        yield from (replace(finding, name=f"{part}/{finding.name}") for finding in _run(folder / part))
    if result.get("status") == "completed" and not told:
        yield Finding("result.json", "missing", "no digests in it: an earlier version wrote it", "train again")


def _checkpoints(place: Path) -> Iterator[Finding]:
    fix = "nothing: --resume passes over it"
    if (place / run_identity.RUN).exists() or checkpoints.found(place):
        yield _opened(f"{place.name}/{run_identity.RUN}", lambda: manifest.opened(place / run_identity.RUN), fix)
    for _, checkpoint in checkpoints.found(place):
        yield _opened(f"{place.name}/{checkpoint.name}", lambda c=checkpoint: checkpoints.verified(c), fix)  # type: ignore[misc]


def _inputs(folder: Path, told: Mapping[str, Any]) -> Iterator[Finding]:
    fix = "put it back as it was; the run cannot be repeated or gone on with without it"
    for field, entries in told["inputs"].items():
        for entry in entries:
            if "hub" in entry:
                now = model_files.fingerprint(entry["hub"].rpartition("@")[0])
                same = now == entry["hub"]
                yield Finding(f"{field}: {entry['hub']}", "same" if same else "differs", "" if same else now, fix)
            else:
                yield _compared(_place(folder, entry["file"]), entry, f"{field}: {entry['file']}", fix)
    if told["media"]:
        changed = []
        lines = read_lines(folder / digests.MEDIA)
        for line in lines:
            file = _place(folder, line["file"])
            size = {"bytes": file.stat().st_size} if file.is_file() else {"bytes": 0}
            finding = _compared(file, {**size, "sha256": line["sha256"]}, line["file"], fix)
            changed += [] if finding.is_sound else [finding]
        yield from changed
        yield Finding(f"{len(lines) - len(changed)} pictures and recordings", "same")
    if told["cache"]:
        yield from _cache_of(folder, told["cache"])


def _cache_of(folder: Path, digest: str) -> Iterator[Finding]:
    """The cache that a run read."""
    named = ((read_result(folder)["reference"] or {}).get("cache") or {}).get("folder")
    place, name, fix = _place(folder, named or ""), f"reference.cache: {named}", "keeltune cache RECIPE makes it again"
    if named is None or not _is_cache(place):
        yield Finding(name, "missing", "no cache there", fix)
        return
    with suppress(NotAsWrittenError):
        now = manifest.opened(place / tensor_store.MANIFEST)["digest"]
        if now != digest:
            yield Finding(name, "differs", f"a cache with the digest {now[:16]}…, {digest[:16]}… was read", fix)
            return
    yield from (replace(finding, name=f"{name}/{finding.name}") for finding in _cache(place))


def _place(folder: Path, name: str) -> Path:
    """Where a file lies that `recipe.paths.shared` named as seen from the folder."""
    return folder / os.path.expanduser(name)


# ------------------------------------------------------------------------------------------------ a model, and a cache


def _model(folder: Path) -> Iterator[Finding]:
    fix = f"copy it again, or take it as it is: delete {folder / sealed_model.MANIFEST}"
    found = _opened(sealed_model.MANIFEST, lambda: sealed_model.written_files(folder), fix)
    yield found
    if found.is_sound:
        written = sealed_model.written_files(folder)
        for name, told in written.items():
            yield _compared(folder / name, told, name, fix)
        for file in sealed_model.read_files(folder):
            if file.name not in written:
                yield Finding(file.name, "added", "a file that keeltune did not write", "take it away")


def _export(folder: Path) -> Iterator[Finding]:
    fix = "keeltune export RUN --overwrite writes it again"
    found = _opened(exported.PROOF, lambda: manifest.opened(folder / exported.PROOF), fix)
    yield found
    if found.is_sound:
        for name, told in manifest.opened(folder / exported.PROOF)["files"].items():
            yield _compared(folder / name, told, name, fix)


def _cache(folder: Path) -> Iterator[Finding]:
    fix = "keeltune cache RECIPE computes it again"
    file = folder / tensor_store.MANIFEST
    found = _opened(file.name, lambda: manifest.opened(file), f"{fix} (--overwrite)")
    yield found
    if found.is_sound:
        store = Store(folder, fix)
        for number, entry in enumerate(store.manifest["shards"]):
            name = tensor_store.shard_name(number)
            yield _compared(folder / name, entry, name, fix)
        if store.manifest.get("head") is not None:
            yield _head(store, fix)


def _head(store: Store, fix: str) -> Finding:
    try:
        require_head(store)
    except BrokenShards as error:
        return Finding("head.safetensors", "differs", error.problems[0].found, fix)
    return Finding("head.safetensors", "same")


def _opened(name: str, read: Callable[[], Any], fix: str) -> Finding:
    """What reading a thing that has its own digest says of it."""
    try:
        read()
    except NotAsWrittenError as error:
        return Finding(name, "missing" if str(error).endswith("is missing") else "differs", str(error), fix)
    return Finding(name, "same")


def _compared(file: Path, told: Mapping[str, Any], name: str, fix: str) -> Finding:
    return replace(_opened(name, lambda: manifest.check(file, told), fix), name=name)
