"""A folder that holds a low-rank adapter alone, as PEFT saves one: its base found, checked, and merged with it.

    adapter_config.json          what it is (`peft_type`), and whose (`base_model_name_or_path`)
    adapter_model.safetensors    its weights, and those of modules that were trained whole (`modules_to_save`)
    config.json, tokenizer …     optional; else the base's

Everything that reads a model folder asks `base_of` where the whole weights lie. The base may be an adapter's folder
itself; the innermost is merged first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.models import weight_files
from keeltune.utils.errors import UserError, name_list, visible
from keeltune.utils.json import read_json

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

MERGEABLE = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "SHIRA", "RANDLORA")
"""Kinds of adapters that are an addition to weights, so that both together are a plain model."""

DEEPEST = 5
"""Adapters on adapters, at most."""

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and where its base lies: a folder or a hub id."""

    folder: Path
    base: str

    @property
    def trained_whole(self) -> set[str]:
        """The names of the base's weights that it replaces: of a head, most often."""
        names = weight_files.read_header(self.folder / WEIGHTS)[1]
        return {name.removeprefix(PREFIX) for name in names if not re.search(r"\.(lora|vera|ia3|oft|hada|lokr)_", name)}


def adapter_of(source: str | Path) -> Adapter | None:
    """The adapter that a folder holds; None where it holds a whole model, or is none. Raises UserError for settings
    that cannot be read."""
    folder = Path(source)
    if not (folder / SETTINGS).is_file() or (folder / "model.safetensors").is_file():
        return None
    if (folder / "model.safetensors.index.json").is_file():
        return None
    named = read_json(folder / SETTINGS, kind=dict, infinity=True).get("base_model_name_or_path")
    return Adapter(folder, _found(folder, named) if isinstance(named, str) and named else "")


def _found(folder: Path, named: str) -> str:
    """A base's folder: as it is named, beside the adapter or in it; else the name, as a hub id."""
    places = (Path(named).expanduser(), folder / named, folder.parent / named)
    return next((str(place.absolute()) for place in places if place.is_dir()), named)


def base_of(source: str) -> str:
    """Where the whole weights of a model lie: the folder itself, or the (innermost) base of an adapter's."""
    for _ in range(DEEPEST):
        if (adapter := adapter_of(source)) is None:
            return source
        source = adapter.base
    return source


def adapters_on(source: str) -> list[Adapter]:
    """The adapters that are merged to make a model, the innermost first; none for a whole model."""
    found: list[Adapter] = []
    while len(found) < DEEPEST and (adapter := adapter_of(source)) is not None:
        found.insert(0, adapter)
        source = adapter.base
    return found


def settings_problem(folder: Path) -> tuple[str, str] | None:
    """What is wrong with an adapter's folder by itself: found, and how to mend it."""
    try:
        settings = read_json(folder / SETTINGS, kind=dict, infinity=True)
    except UserError as error:
        return f"{SETTINGS}: {error.problems[0].found}", "copy the adapter again"
    kind = settings.get("peft_type")
    if kind not in MERGEABLE:
        return f"an adapter of the kind {visible(repr(kind))}", "one that adds to weights, such as LORA"
    mapped = settings.get("auto_mapping") or {}
    library = str(mapped.get("parent_library", "transformers.")) if isinstance(mapped, dict) else ""
    if settings.get("megatron_config") is not None or not library.startswith("transformers."):
        return f"{SETTINGS} asks for code of its own (auto_mapping, megatron_config)", "take them out"
    if not (folder / WEIGHTS).is_file():
        return f"no {WEIGHTS}", "save the adapter once more (save_pretrained does)"
    if reason := weight_files.file_problem(folder / WEIGHTS):
        return f"{WEIGHTS}: {reason}", "copy the adapter again"
    return None


def misfit(skeleton: Any, adapter: Adapter) -> str | None:
    """Why an adapter is none of this model (without its weights), or None: by names and shapes, as PEFT has them.

    Raises whatever PEFT raises over settings that fit no module.
    """
    import peft

    settings = _settings(adapter, skeleton)
    wanted = {n: list(w.shape) for n, w in _state(peft.get_peft_model(skeleton, settings)).items()}
    stored = {n: entry["shape"] for n, entry in weight_files.read_header(adapter.folder / WEIGHTS)[1].items()}
    if lost := sorted(stored.keys() - wanted.keys()):
        return f"it has weights for {name_list(lost)}, which this model lacks"
    if lost := sorted(wanted.keys() - stored.keys()):
        return f"it has none for {name_list(lost)}"
    other = [f"{name} {stored[name]} for {wanted[name]}" for name in sorted(stored) if stored[name] != wanted[name]]
    return f"weights of another shape: {name_list(other[:5])}" if other else None


def _settings(adapter: Adapter, model: Any) -> Any:
    """PEFT's settings of an adapter, for this very model."""
    import peft

    settings = peft.PeftConfig.from_pretrained(str(adapter.folder))
    settings.inference_mode = True
    settings.base_model_name_or_path = model.name_or_path
    return settings


def _state(model: Any) -> dict[str, Any]:
    import peft

    state: dict[str, Any] = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def attached(model: Any, adapter: Adapter) -> Any:
    """The model with an adapter beside its weights, which stay what they are."""
    whole = _adapted(model, adapter).get_base_model()
    whole.name_or_path = str(adapter.folder)
    return whole


def _adapted(model: Any, adapter: Adapter) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(model, str(adapter.folder), config=_settings(adapter, model))


def merged(model: Any, adapter: Adapter) -> Any:
    """The model with an adapter's weights added to its own, as a plain model again."""
    whole = _adapted(model, adapter).merge_and_unload()
    whole.name_or_path = str(adapter.folder)
    for weight in whole.parameters():
        weight.requires_grad_(True)
    return whole
