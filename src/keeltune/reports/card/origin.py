"""Where a model comes from: the nearest model of the hub that its weights go back to, and that model's licence.

A name of the hub is known where the recipe gives one, where the folder is the hub's own cache, or where the folder's
card names its base. A folder's name is none. A licence is what the base's card or configuration says; none is made up.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune.models import adapters

LICENSES = ("license", "license_name", "license_link")

DEEPEST = 10
"""Folders whose cards name a folder as their base, at most."""


@dataclass(frozen=True)
class Origin:
    """`base`: a name of the hub, None where none is known; `license`: the licence's entries of its card."""

    base: str | None = None
    license: dict[str, str] = field(default_factory=dict)


def origin(source: str | None) -> Origin:
    """The origin of a model whose weights were read from `source`: a folder or a name of the hub; None: a new one."""
    found: dict[str, str] = {}
    for _ in range(DEEPEST):
        if source is None:
            break
        source = adapters.base_of(source)
        folder = Path(source)
        known = _cached_name(folder) if folder.is_dir() else source
        card = _card(source)
        found = found or _license(card) or _configured(folder)
        if known is not None:
            return Origin(known if _is_name(known) else None, found)
        named = card.get("base_model")
        named = named[0] if isinstance(named, list) and len(named) == 1 else named
        source = named if isinstance(named, str) and (_is_name(named) or Path(named).is_dir()) else None
    return Origin(None, found)


def hub_name(source: str) -> str | None:
    """A model as the hub names it; None for a folder of which that is not known."""
    return origin(source).base


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) is not None and not text.startswith(".")


def _cached_name(folder: Path) -> str | None:
    """`…/models--ORG--NAME/snapshots/COMMIT` is ORG/NAME, in the cache of the hub's client."""
    place = folder.parents[1].name if len(folder.parents) > 1 and folder.parent.name == "snapshots" else ""
    return place.removeprefix("models--").replace("--", "/") if place.startswith("models--") else None


def _card(source: str) -> dict[str, Any]:
    """The metadata of a model's card; nothing where it has none, or it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.repocard import metadata_load

    with suppress(Exception):  # a card is a text of somebody's, and the hub may be out of reach
        file = Path(source) / "README.md" if Path(source).is_dir() else Path(hf_hub_download(source, "README.md"))
        loaded = metadata_load(os.fspath(file))
        return loaded if isinstance(loaded, dict) else {}
    return {}


def _license(said: dict[str, Any]) -> dict[str, str]:
    """The entries on the licence, where there is one."""
    if not isinstance(said.get("license"), str) or not said["license"].strip():
        return {}
    return {name: said[name] for name in LICENSES if isinstance(said.get(name), str)}


def _configured(folder: Path) -> dict[str, str]:
    """The licence that a model's configuration names."""
    from keeltune.utils.json import read_json

    with suppress(Exception):
        return _license(read_json(folder / "config.json", kind=dict, infinity=True))
    return {}
