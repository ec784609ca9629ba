"""What of a model's folder may be published: its own files, searched for what is nobody else's business.

A secret is found by its shape, a path of this machine by its beginning: in each value of the settings (JSON), in each
line of the texts (the card, the chat template), and, of the folders that are the user's own for sure, in all of them.
Vocabularies hold words of all kinds, which are no paths: in them only the user's own folders are looked for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.models import sealed_model
from keeltune.reports.card.usage import PLACE
from keeltune.utils.errors import Problem, UserError, visible
from keeltune.utils.sanitization import HIDDEN, holds_secret

TEXTS = frozenset({".json", ".jinja", ".md", ".txt", ".model", ".yaml"})
"""Endings of files that are searched; weights are numbers."""

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "normalizer.json")
"""Files of words."""

PATH = re.compile(
    r"(?<![\w/.:~-])(?:~/|/(?:home|Users|root|tmp|mnt|media|private|var|opt|srv|scratch|data|work|workspace|content|"
    r"nfs|lustre|gpfs|Volumes)/)[\w.~+-][^\s\"'`<>)\]]*|\b[A-Za-z]:\\\\?(?:Users|home|[\w .-]+\\)[^\s\"'`<>]*|\bfile://[^\s\"'`<>)]+"
)
"""How a path of somebody's machine begins."""


@dataclass(frozen=True)
class Published:
    """A file: its name in the repository, and where it lies, or its bytes."""

    name: str
    content: str | bytes
    size: int


def published(model: Path, repository: str) -> list[Published]:
    """The files to send: those of the manifest, the manifest, the card, in which the repository's name stands for the
    folder. UserError with everything in them that must not be published."""
    names = sorted([*sealed_model.written_files(model), sealed_model.MANIFEST])
    files = [Published(name, str(model / name), (model / name).stat().st_size) for name in names]
    card = model / "README.md"
    if not card.is_file():
        fix = f"write one, or make it again: keeltune train {model.parent / 'recipe.yaml'} --resume"
        raise UserError(Problem(str(card), "", "no model card", "a card beside the model", fix))
    text = card.read_text(encoding="utf-8")
    named = text.replace(PLACE, PLACE.replace('"."', f'"{repository}"'), 1).encode()
    files.append(Published(card.name, named, len(named)))
    if problems := [problem for name in (*names, card.name) for problem in _faults(model / name)]:
        raise UserError(problems)
    return files


def _faults(file: Path) -> Iterator[Problem]:
    """What must not be published of a file."""
    if file.suffix not in TEXTS:
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    expected = "nothing but the model: what is published cannot be called back"
    if any(own in text for own in _own_folders(file)):
        fix = "take the path out of the file, and train or save it again"
        yield Problem(str(file), "", "the path of a folder of yours", expected, fix, "a path")
    if file.name in VOCABULARIES:
        return
    for field, value in _values(file, text):
        if holds_secret(value):
            fix = "take it out, and change it where it was used"
            yield Problem(str(file), field, f"a secret ({HIDDEN})", expected, fix, "a secret")
        elif found := PATH.search(value):
            fix = "take it out, or name it as others know it"
            if field == "base_model_name_or_path":
                fix = "name the base as the hub does, or publish the merged model"
            yield Problem(str(file), field, f"the path {visible(found[0])}", expected, fix, "a path")


def _own_folders(file: Path) -> list[str]:
    """Folders that are this user's for sure: the home, and the run's own; not what every machine has."""
    home, run = os.path.expanduser("~"), str(file.resolve().parents[1])
    return [folder for folder in (home, run) if folder.count("/") > 1]


def _values(file: Path, text: str) -> Iterator[tuple[str, str]]:
    """(field, text) of what a file says: of JSON each string, else each line."""
    if file.suffix == ".json":
        try:
            yield from _strings(json.loads(text))
            return
        except ValueError:
            pass
    for number, line in enumerate(text.splitlines(), 1):
        yield f"line {number}", line


def _strings(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(inner, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{field}.{number}".lstrip("."))
    elif isinstance(value, str):
        yield field, value
