"""A model folder's files: found, checked, fingerprinted; no weight is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from keeltune.utils.errors import Problem, UserError, shown

ENDS = 1 << 20
"""Bytes at each end of a file that its fingerprint reads: every training run changes some of them."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "spiece*")
"""Any one of them holds a vocabulary; without one transformers makes up a tokenizer that knows no word."""


def locate(value: str, resolve: Callable[[str], Path], where: str, field: str, *, writes: bool = True) -> str:
    """A recipe's model as a folder's absolute path (a run folder stands for its `model/`), or as a hub id.

    `writes`: it has a tokenizer; an encoder of pictures or sound needs none.

    Raises UserError where it is a path and no model lies there, naming what is missing in the folder.
    """
    path = _trained(resolve(value))
    if path.is_dir():
        if problem := _folder_problem(path, where, field, writes):
            raise UserError(problem)
        return str(path)
    looks_like_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value) and not value.startswith(".") and not path.exists()
    if looks_like_hub and value.split("/")[0] not in {"runs", "models", "checkpoints", "output"}:
        return value
    raise UserError(
        Problem(
            where,
            field,
            f"{shown(value)}, tried as {path}" + (" (a file)" if path.is_file() else ""),
            "a model folder (config.json, model.safetensors, a tokenizer), a finished run, or a hub id",
            "correct the path; paths are relative to the recipe's folder",
        )
    )


def _trained(path: Path) -> Path:
    """A run folder's `model/`; of several seeds that of the best one. Any other path as it is."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        path = path / json.loads((path / "result.json").read_text(encoding="utf-8"))["seeds"]["best"]
    return path / "model" if (path / "result.json").is_file() and (path / "model").is_dir() else path


def _folder_problem(path: Path, where: str, field: str, writes: bool = True) -> Problem | None:
    """What a local model folder lacks, or None. Only names and headers are read."""

    def problem(found: str, fix: str) -> Problem:
        return Problem(where, field, f"{path}: {found}", "config.json, safetensors weights and a tokenizer", fix)

    if not (path / "config.json").is_file():
        return problem("no config.json", "name the folder that `save_pretrained` wrote")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return problem(f"config.json is no JSON ({error})", "copy the model folder again")
    if not isinstance(config, dict) or "model_type" not in config:
        return problem("config.json names no model_type", "name a transformers model folder")
    if "auto_map" in config:
        return problem("config.json asks for code of its own (auto_map)", "use a model whose code is in transformers")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickled = [p.name for p in path.glob("*.bin")]
        found = f"weights only as pickle ({', '.join(pickled)})" if pickled else "no *.safetensors"
        return problem(found, "save the model once more with safe_serialization (save_pretrained does)")
    if writes and not any(any(path.glob(pattern)) for pattern in TOKENIZER_FILES):
        return problem(f"no tokenizer ({', '.join(TOKENIZER_FILES)})", "save the model's tokenizer there too")
    index = path / "model.safetensors.index.json"
    if index.is_file() and not (path / "model.safetensors").is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return problem(f"{index.name} names no shards", "copy the model folder again")
        if absent := sorted(shard for shard in shards if not (path / shard).is_file()):
            return problem(f"the index names {', '.join(absent)}, which is not there", "copy the model folder again")
    for file in weights:
        if reason := _header_problem(file):
            return problem(f"{file.name}: {reason}", "copy the file again (with git: git lfs pull)")
    return None


def _header_problem(file: Path) -> str | None:
    """Whether a safetensors file is whole, from its header alone."""
    size = file.stat().st_size
    try:
        length, header = _header(file)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) if isinstance(error, ValueError) else "a broken safetensors header"
    return None if 8 + length + end == size else f"{size} bytes, expected {8 + length + end}: cut or overwritten"


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """A safetensors file's header: 8 bytes of length, then JSON, name -> dtype, shape, offsets of the data after it."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise ValueError("a git-lfs pointer, not the weights")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(file.stat().st_size, 100_000_000):
            raise ValueError("no safetensors header")
        header = json.loads(stream.read(length))
    return length, {name: entry for name, entry in header.items() if name != "__metadata__"}


def half_precision(source: str, config: Any) -> torch.dtype | None:
    """The half precision in which a model is stored, or None: from its weights where they are here, else as it says."""
    if Path(source).is_dir():
        stored = {e["dtype"] for file in Path(source).glob("*.safetensors") for e in _header(file)[1].values()}
        floats = {name for name in stored if name in {"F16", "BF16", "F32", "F64"}}
        return {frozenset({"F16"}): torch.float16, frozenset({"BF16"}): torch.bfloat16}.get(frozenset(floats))
    stated = getattr(config, "dtype", None)
    return stated if stated in (torch.float16, torch.bfloat16) else None


def fingerprint(source: str) -> str:
    """What a checkpoint's identity says of a model: a digest of its files' heads and tails, or a hub id as it is."""
    if not Path(source).is_dir():
        return source
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(source).iterdir() if p.is_file() and p.suffix != ".md"):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(ENDS))
            stream.seek(max(ENDS, size - ENDS))
            digest.update(stream.read())
    return digest.hexdigest()


def or_refuse(load: Callable[[], Any], source: str, where: str, field: str) -> Any:
    """What `load` returns; a UserError that names `source` where it fails."""
    try:
        return load()
    except Exception as error:  # whatever transformers raises over a folder, the folder is what the user can fix
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        local = Path(source).is_dir()
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)}: {reason[:300]}",
                "a model folder that transformers can read" if local else "a folder, or a model id that the hub holds",
                "save the model and its tokenizer there again"
                if local
                else "give a local folder, or connect to the hub",
            )
        ) from error
