"""A model folder's safetensors files: which are read, and whether their headers and names tell the truth.

Everything that a header or an index says is held against the file before anything loads: a wrong offset, shape or name
would be found by the loader too late, or (shards of another folder) never. No weight is read.

Source of the format: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path
from typing import Any

import torch

from keeltune.utils.errors import name_list, visible
from keeltune.utils.files import open_regular
from keeltune.utils.json import JsonFault, parse_json

MAX_HEADER = 100_000_000
"""Bytes of a header, at most: the format's own bound."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one number of each type."""


_may_lack: ContextVar[bool] = ContextVar("folders may lack weights", default=False)


@contextmanager
def may_lack_weights(may: bool = True) -> Iterator[None]:
    """Within: a folder without any weights is a model all the same, of which only the configuration is looked at."""
    token = _may_lack.set(may)
    try:
        yield
    finally:
        _may_lack.reset(token)


def lacks_weights(folder: Path) -> bool:
    """Whether a folder has no weights, and need not have any (`may_lack_weights`)."""
    return _may_lack.get() and not any(folder.glob("*.safetensors"))


def weights_problem(folder: Path) -> str | None:
    """What is wrong with the weights of a model folder, or None: the file or entry, and what is false about it."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if not whole.is_file() and index.is_file():
        reason = _index_problem(folder, index)
        if reason is not None:
            return reason
    elif not files:
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        if lacks_weights(folder) and not pickled:
            return None
        return f"weights only as pickle ({name_list(pickled)})" if pickled else "no *.safetensors"
    return next((f"{file.name}: {reason}" for file in files if (reason := file_problem(file)) is not None), None)


def file_problem(file: Path) -> str | None:
    """What is false about one safetensors file, or None. Its header alone is read."""
    if reason := _place_problem(file.parent, file.name):
        return reason
    try:
        length, header = read_header(file)
        return _entries_problem(header, file.stat().st_size - 8 - length)
    except (ValueError, OSError) as error:
        return str(error)


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """(bytes of the header, its entries): 8 bytes of length, then JSON, name -> dtype, shape, offsets of the data.

    ValueError where it is none.
    """
    with open_regular(file) as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise ValueError("a git-lfs pointer, not the weights (git lfs pull)")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(file.stat().st_size - 8, MAX_HEADER):
            raise ValueError("no safetensors header, or one that is cut")
        text = stream.read(length)
    header = _json_object(text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ in its header is no mapping of texts")
    return length, header


def _json_object(text: bytes) -> dict[str, Any]:
    """JSON as a mapping of unambiguous names; ValueError where it is none."""
    try:
        value = parse_json(text)
    except UnicodeDecodeError as error:
        raise ValueError("no UTF-8 where JSON was expected") from error
    except JsonFault as fault:
        raise ValueError(f"{fault.kind} ({fault.found})") from fault
    if not isinstance(value, dict):
        raise ValueError("no mapping of names where one was expected")
    return value


def _entries_problem(header: Mapping[str, Any], size: int) -> str | None:
    """What is false about a header's entries for `size` bytes of data behind it."""
    spans = []
    for name, entry in header.items():
        if reason := _entry_problem(entry):
            return f"{visible(name)} in its header {reason}"
        spans.append((*entry["data_offsets"], name))
    end = 0
    for begin, after, name in sorted(spans):
        if begin != end:
            relation = "overlaps the entry before it" if begin < end else "leaves bytes that no entry names before it"
            return f"{visible(name)} in its header {relation}: it begins at {begin}, expected {end}"
        end = after
    return None if end == size else f"{size} bytes of data, expected {end}: cut or overwritten"


def _entry_problem(entry: Any) -> str | None:
    """What is wrong with an entry by itself."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "lacks dtype, shape or data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"has the unknown dtype {visible(repr(dtype))}"
    if not _counts(shape):
        return f"has the shape {visible(repr(shape))}"
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"has the data_offsets {visible(repr(offsets))}"
    bits, given = prod(shape) * BITS[dtype], (offsets[1] - offsets[0]) * 8
    if bits != given:
        return f"says {dtype} of shape {visible(repr(shape))}, {bits // 8} bytes, for {given // 8} bytes of data"
    return None


def _counts(values: Any) -> bool:
    """Whether `values` is a list of whole numbers from 0."""
    return isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)


def _index_problem(folder: Path, index: Path) -> str | None:
    """What is false about an index of shards: names outside the folder, shards or weights that are not there."""
    try:
        weight_map = _json_object(index.read_bytes())["weight_map"]
    except (ValueError, OSError, KeyError) as error:
        return f"{index.name}: {'no weight_map' if isinstance(error, KeyError) else error}"
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        return f"{index.name}: its weight_map names no shards"
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if reason := _place_problem(folder, shard):
            return f"{index.name} names {visible(shard)}: {reason}"
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        return f"{index.name} names {name_list(absent)}, which is not there"
    for shard in shards:
        if reason := file_problem(folder / shard):
            return f"{visible(shard)}: {reason}"
        held = read_header(folder / shard)[1].keys()
        if lost := [name for name, home in weight_map.items() if home == shard and name not in held]:
            return f"{index.name} places {name_list(lost)} in {visible(shard)}, which does not hold it"
    return None


def _place_problem(folder: Path, name: str) -> str | None:
    """Why `name` is no file of the folder: another folder's, by its name or by a link."""
    if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        return "expected the name of a safetensors file of this folder"
    file, real = folder / name, folder.resolve()
    if not file.is_symlink() or file.resolve().parent == real:
        return None
    blobs = real.parent.parent / "blobs"  # the hub's own cache keeps each file once and links to it
    return None if real.parent.name == "snapshots" and file.resolve().parent == blobs else "a link out of the folder"


def half_precision_of(files: Iterable[Path]) -> torch.dtype | None:
    """The half precision in which all floating weights of `files` are stored, or None."""
    stored = {entry["dtype"] for file in files for entry in read_header(file)[1].values()}
    floats = frozenset(name for name in stored if name in {"F16", "BF16", "F32", "F64"})
    return {frozenset({"F16"}): torch.float16, frozenset({"BF16"}): torch.bfloat16}.get(floats)
