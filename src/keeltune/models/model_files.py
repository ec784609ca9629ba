"""A model folder's files: found, checked, fingerprinted; no weight is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keeltune.models import adapters, libraries, weight_files
from keeltune.models.sealed_model import read_files, refuse_changed
from keeltune.utils.digests import canonical, file_digest
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.json import read_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "spiece*")
"""Any one of them holds a vocabulary; without one transformers makes up a tokenizer that knows no word."""

UNFINISHED = "wait for its end; if it was stopped: keeltune train, as it was begun, with --resume"


def locate(value: str, resolve: Callable[[str], Path], where: str, field: str, *, writes: bool = True) -> str:
    """A recipe's model as a folder's absolute path (a run folder stands for its `model/`), or as a hub id.

    `writes`: it has a tokenizer; an encoder of pictures or sound needs none.

    Raises UserError where it is a path and no model lies there, naming what is missing in the folder; StateRefused
    where a model of keeltune's is not what was written.
    """
    try:
        path = _trained(resolve(value))
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:  # a name that no file can have: too long, or with a NUL in it
        expected, fix = "the name of a folder, or a hub id", "correct the path"
        raise UserError(Problem(where, field, f"{shown(value)}: {error}"[:300], expected, fix)) from error
    if is_folder:
        refuse_changed(str(path), where, field)
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
    with suppress(UserError, KeyError, TypeError):
        best = read_json(path / "result.json", kind=dict)["seeds"]["best"]
        path = path / best if re.fullmatch(r"seed-\d+", best) else path
    return path / "model" if (path / "result.json").is_file() and (path / "model").is_dir() else path


def _folder_problem(path: Path, where: str, field: str, writes: bool = True) -> Problem | None:
    """What a local model folder lacks, or None. Only names and headers are read."""

    def problem(found: str, fix: str) -> Problem:
        return Problem(where, field, f"{path}: {found}", "config.json, safetensors weights and a tokenizer", fix)

    if (path / adapters.SETTINGS).is_file() and not (path / "model.safetensors").is_file():
        return _adapter_problem(path, where, field, writes)
    if not (path / "config.json").is_file():
        if any((path / name).is_file() for name in ("log.jsonl", "result.json")):
            return Problem(where, field, f"{path}: a run that has not ended", "a finished run", UNFINISHED)
        return problem("no config.json", "name the folder that `save_pretrained` wrote")
    try:
        config = read_json(path / "config.json", kind=dict, infinity=True)
    except UserError as error:
        return problem(f"config.json: {error.problems[0].found}", "copy the model folder again")
    if "model_type" not in config:
        return problem("config.json names no model_type", "name a transformers model folder")
    if "auto_map" in config:
        return problem("config.json asks for code of its own (auto_map)", "use a model whose code is in transformers")
    if reason := weight_files.weights_problem(path):
        return problem(reason, "copy the file again (with git: git lfs pull), or save the model once more")
    if writes and not _has_tokenizer(path, config["model_type"]):
        return problem(f"no tokenizer ({', '.join(TOKENIZER_FILES)})", "save the model's tokenizer there too")
    return None


def _adapter_problem(path: Path, where: str, field: str, writes: bool) -> Problem | None:
    """What a folder with an adapter alone lacks, or its base."""
    expected = "an adapter (adapter_config.json, adapter_model.safetensors) and its base model"
    if reason := adapters.settings_problem(path):
        return Problem(where, field, f"{path}: {reason[0]}", expected, reason[1])
    chain = adapters.adapters_on(str(path))
    if len(chain) == adapters.DEEPEST:
        fix = "name a whole model in the innermost adapter_config.json"
        return Problem(where, field, f"{path}: {len(chain)} adapters on each other, or a circle of them", expected, fix)
    base, named = Path(chain[0].base or "none"), f"the base model {shown(chain[0].base)} that adapter_config.json names"
    if base.is_dir():
        has_own = any(any(adapter.folder.glob(pattern)) for adapter in chain for pattern in TOKENIZER_FILES)
        problem = _folder_problem(base, where, field, writes and not has_own)
        return problem and replace(problem, found=f"{path}, of {problem.found}")
    if not chain[0].base or base.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", chain[0].base):
        fix = "put it there, correct base_model_name_or_path, or name the merged model (a run's `model/`)"
        return Problem(where, field, f"{path}: {named} is not there", expected, fix)
    return None


def _has_tokenizer(path: Path, model_type: Any) -> bool:
    """Whether a folder holds a vocabulary, or its tokenizer needs none: it reads bytes or code points."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    settings = path / "tokenizer_config.json"
    if not settings.is_file() and any(any(path.glob(pattern)) for pattern in TOKENIZER_FILES):
        return True
    named: Any = None
    with suppress(UserError):  # what is wrong with it is said where the tokenizer is loaded
        named = read_json(settings, kind=dict, infinity=True).get("tokenizer_class")
    named = named if isinstance(named, str) else TOKENIZER_MAPPING_NAMES.get(str(model_type))
    kind = getattr(transformers, named or "", None)
    files: Any = getattr(kind, "vocab_files_names", None)
    patterns = (*TOKENIZER_FILES, *(files.values() if isinstance(files, dict) else ()))
    by_itself = settings.is_file() and isinstance(files, dict) and not files
    return by_itself or any(any(path.glob(pattern)) for pattern in patterns if isinstance(pattern, str))


def half_precision(source: str, config: Any) -> torch.dtype | None:
    """The half precision in which a model is stored, or None: from its weights where they are here, else as it says."""
    source = adapters.base_of(source)
    if Path(source).is_dir():
        return weight_files.half_precision_of(Path(source).glob("*.safetensors"))
    stated = getattr(config, "dtype", None)
    return stated if stated in (torch.float16, torch.bfloat16) else None


def fingerprint(source: str) -> str:
    """What an identity says of a model: a digest of its files, each read whole, and of the base of an adapter; of a hub
    id the commit that lies on this machine."""
    if not Path(source).is_dir():
        return f"{source}@{_commit(source)}"
    adapter = adapters.adapter_of(source)
    digests = {} if adapter is None else {"base": fingerprint(adapter.base)}
    digests |= {file.name: file_digest(file) for file in read_files(Path(source))}
    return hashlib.sha256(canonical(digests).encode()).hexdigest()


def _commit(source: str) -> str:
    """The revision of a model of the hub in this machine's cache: its files are those of its configuration's folder."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(source, "config.json")
    return Path(file).parent.name if isinstance(file, str) else "unknown"


def or_refuse(load: Callable[[], Any], source: str, where: str, field: str) -> Any:
    """What `load` returns; a UserError that names `source` where it fails."""
    try:
        return load()
    except BaseException as error:  # whatever transformers raises over a folder, the folder is what the user can fix
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # that is tokenizers' own
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        local = Path(source).is_dir()
        library = libraries.installation(str(error))
        raise UserError(
            Problem(
                where,
                field,
                f"{shown(source)}: {reason[:300]}",
                "a model folder that transformers can read" if local else "a folder, or a model id that the hub holds",
                library
                or (
                    "save the model and its tokenizer there again"
                    if local
                    else "give a local folder, or connect to the hub"
                ),
            )
        ) from error
