"""What identifies a cache of a reference's answers: whose they are, to what, and in which folder they lie.

identity   the references' weights, the tokenizer, task, labels, lengths, prompt, precision, rows, targets
key        of an example: its row's content (and stride); the digest of what the reference reads stands beside it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from keeltune.data.media import Decoded
from keeltune.data.targets import unit_of
from keeltune.models import tokenizer_match, vocabulary
from keeltune.models.adapters import adapter_of
from keeltune.tasks.common.example import Example
from keeltune.training.preparation.material import Material
from keeltune.training.reference_holding import held_in
from keeltune.training.student import student_holding
from keeltune.utils.digests import canonical, digest_of, file_digest

VERSION = 1

EXACT = 1024
"""Choices up to which a distribution is kept in full: at most 4 KiB a prediction."""


@dataclass(frozen=True)
class CacheRequest:
    """What a recipe wants to have in its cache: whose answers, in what form, to which examples, in which folder.

    `form`: {"form", "dtype", and for top-k or auto "k", "temperature"}; `contents`: what is read of each example;
    `place`: where an example's row lies, by its key.
    """

    identity: dict[str, Any]
    form: dict[str, Any]
    folder: Path
    examples: list[Example]
    contents: dict[str, bytes]
    command: str
    place: Callable[[str], str] = lambda key: f"{key[:16]}…"

    @property
    def fix(self) -> str:
        return f"make it anew with: {self.command} --overwrite; or name another folder in reference.cache"


def cache_request(material: Material, precision: str, examples: Iterable[Example]) -> CacheRequest:
    """The cache of these examples under this recipe; `examples` are all that training will meet."""
    recipe, spec = material.recipe, material.recipe.reference_spec()
    assert spec is not None
    unique = ordered(examples)
    form = {"form": spec.form, "k": spec.k, "dtype": spec.dtype, "temperature": recipe.objective.temperature}
    choices = choices_of(material)
    if "server" in spec.needs:
        form |= {"form": "top-k"}
    elif spec.form in ("full", "hidden") or (spec.form == "auto" and choices <= EXACT):
        form = {"form": "full" if spec.form == "auto" else spec.form, "dtype": spec.dtype}
    identity = identity_of(material, precision)
    contents = {example.key: content_of(example) for example in unique}
    listing = "".join(sorted(f"{key} {content.hex()}" for key, content in contents.items()))
    identity["examples"] = hashlib.sha256(listing.encode()).hexdigest()  # two sets of rows are two caches
    name = hashlib.sha256(canonical([identity, form]).encode()).hexdigest()[:16]
    folder = cache_folder(material) if spec.cache else cache_folder(material) / name
    command = recipe.command("cache") or "keeltune cache RECIPE.yaml"
    return CacheRequest(identity, form, folder, unique, contents, command, partial(place_of, material))


def place_of(material: Material, key: str) -> str:
    """The file and line of the row that an example is of; of a text that a model wrote, its key."""
    for split, rows in material.rows.items():
        for row, examples in zip(rows, material.encoded.get(split, ()), strict=False):  # `check` encodes but some
            if any(example.key == key for example in examples):
                return f"{row.file}:{row.line}"
    return f"{key[:16]}…"


def ordered(examples: Iterable[Example]) -> list[Example]:
    """Each example once, the shortest first."""
    unique = {example.key: example for example in examples}
    return sorted(unique.values(), key=lambda e: (e.length, e.key))


def cache_folder(material: Material) -> Path:
    """Where this recipe's cache lies, or the folder of all of them where it names none; no digest is needed for it."""
    recipe, spec = material.recipe, material.recipe.reference_spec()
    assert spec is not None
    return recipe.path(spec.cache) if spec.cache else recipe.folder / ".cache"


def identity_of(material: Material, precision: str) -> dict[str, Any]:
    """What the stored numbers depend on besides the rows' own content."""
    recipe, settings, task = material.recipe, material.task.settings, material.task
    spec = recipe.reference_spec()
    assert spec is not None
    served = [] if "models" in spec.needs else [{spec.origin: spec.model}]
    sources = [files.source for files in material.references] or ([] if served else [material.source])
    layers = getattr(recipe.model, "layers", None) if material.reference_is_start else None
    tokenizer = task.tokenizer
    return {
        "version": VERSION,
        "reference": served
        or [{"sha256": weights_digest(source), **({} if layers is None else {"layers": layers})} for source in sources],
        "weight": spec.weight,
        "calibration": None if spec.temperature is None else spec.temperatures(len(sources)),
        "tokenizer": tokenizer_match.tokenizer_digest(tokenizer),
        "template": _digest_or_none(getattr(tokenizer, "chat_template", None)),
        "task": recipe.task,
        "columns": [column.name for column in task.columns],
        "labels": list(settings.labels),
        **_unit(material),
        "shared": None if (shared := shared_of(material)) is None else _digest_or_none(list(shared)),
        "multi_label": settings.multi_label,
        "max_length": settings.max_length,
        "target_max_length": settings.target_max_length,
        "max_new_tokens": settings.max_new_tokens if task.generates else None,
        "prompt": task.asked_with,
        "languages": list(settings.languages or ()),
        "precision": precision,
        **_held(material, precision),
        "targets": recipe.generation.targets,
        "data": {
            name: rows_digest(material, name)
            for name in ("train", "unlabeled", "augmented", "source_unlabeled")
            if material.rows.get(name) and (name != "train" or recipe.anchors_target)
        },
    }


def _held(material: Material, precision: str) -> dict[str, str]:
    """How the weights of the reference are held, where they are not all in float32."""
    held = held_in(material, precision)
    names = {"held": ", ".join(map(str, held))} if any(dtype != torch.float32 for dtype in held) else {}
    return names | ({"bits": "4"} if student_holding(material, precision).four_bit else {})


def _unit(material: Material) -> dict[str, Any]:
    """The unit in which the numbers of a reference are kept: the student's."""
    settings = material.task.settings
    return {"unit": list(unit_of(settings.config, len(settings.labels)))} if material.task.choices == "numbers" else {}


def rows_digest(material: Material, split: str) -> str:
    """A digest of a split's rows as a set: neither their order nor a row that is there twice changes it."""
    return hashlib.sha256("".join(sorted({row.key for row in material.rows[split]})).encode()).hexdigest()


def weights_digest(source: str) -> str:
    """SHA-256 of a model folder's configuration and weights; of a hub id, of the snapshot that lies on this machine."""
    folder = snapshot(source)
    files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name == "config.json")
    digests = [f"{file.name} {file_digest(file)}" for file in files]
    if (adapter := adapter_of(folder)) is not None:
        digests.append(weights_digest(adapter.base))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _digest_or_none(text: Any) -> str | None:
    return None if text is None else hashlib.sha256(canonical(text).encode()).hexdigest()


def content_of(example: Example) -> bytes:
    """A digest of what the reference reads of an example and where it predicts, in each of its encodings."""
    parts = [np.packbits(np.asarray(example.predicted, dtype=bool)).tobytes(), str(example.predictions).encode()]
    for reader in (example, *(example.others[name] for name in sorted(example.others))):
        for name in sorted(reader.inputs):
            value = reader.inputs[name]
            parts.append(name.encode())
            if isinstance(value, Decoded):
                parts.append(f"{value.digest} {value.name}".encode())
            else:
                numbers = np.asarray(value)
                parts += [f"{numbers.dtype} {numbers.shape}".encode(), numbers.tobytes()]
    return digest_of(*parts)


def choices_of(material: Material) -> int:
    """C, as far as configurations say it: places are bounded by the longest example."""
    task = material.task
    if task.choices == "numbers":
        return 1
    if task.choices == "labels":
        return 2 if task.settings.multi_label else len(task.settings.labels)
    if task.choices == "positions":
        return max(example.length for example in material.main_stream)
    shared = shared_of(material)
    return (vocabulary.vocabulary_size(task.settings.config) or 0) if shared is None else len(shared)


def shared_of(material: Material) -> Sequence[int] | None:
    """The token ids on which references and student are compared; None: all."""
    return material.references[0].shared if material.references else None


def snapshot(source: str) -> Path:
    """The folder of a model's files: itself, or the hub's snapshot on this machine, which is downloaded if it lacks."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=["config.json", "*.safetensors"]))
