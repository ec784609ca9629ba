"""The files that a run reads, by their digests: what `result.json` says of them, and whether they stay what they were.

Rows are read whole at the start, so that a file that changes meanwhile changes nothing that is trained. But what lies
there would not be what the run was made of: it could not be gone on with, or repeated. So it ends at once, and says
which file it is. Pictures and recordings are held against their digests whenever they are decoded (`data/media.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from keeltune.models import adapters, model_files, sealed_model
from keeltune.recipe.fields import Recipe
from keeltune.recipe.paths import shared
from keeltune.training.preparation.head_compatibility import NEW
from keeltune.training.preparation.material import Material
from keeltune.training.preparation.named_tests import named_sources
from keeltune.training.preparation.row_encoding import field_of
from keeltune.training.preparation.splits import sources_of
from keeltune.utils import distributed, manifest
from keeltune.utils.digests import file_digest, state_of
from keeltune.utils.errors import Problem, StateRefused, UserError

MOVING: dict[str, Any] = {}
"""In place of what a file holds that changes while it is read."""


class Inputs(TrainerCallback):
    """Made before the first file is read, completed by `note` when the rows have been; asks at each evaluation, at the
    end of each epoch and of the training.

    `files`: by the recipe's field.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]]):
        self.files = {field: list(paths) for field, paths in files.items()}
        self._states = {path: _state(path) for path in chain(*self.files.values())}
        self._entries: dict[Path, dict[str, Any]] = {}
        self._hub: dict[str, list[str]] = {}

    @classmethod
    def of(cls, recipe: Recipe) -> Inputs:
        """The data files, and others whose rows or terms are read."""
        files: dict[str, list[Path]] = {}
        sources = {field_of(name): source for name, source in sources_of(recipe).items()} | named_sources(recipe)
        for field, source in sources.items():
            with suppress(UserError, ImportError, LookupError, AttributeError):  # which is said where it is read
                files[field] = [] if source is None else source.files()
        if recipe.evaluation.terms is not None:
            files["evaluation.terms"] = [recipe.path(recipe.evaluation.terms)]
        return cls({field: paths for field, paths in files.items() if paths})

    def note(self, material: Material) -> None:
        """Notes what has been read, and the models that will be. StateRefused where it changed while it was read."""
        models = {"model": [material.source], "reference": [files.source for files in material.references]}
        for field, sources in models.items():
            paths = [path for source in sources for path in _model_files(source)]
            self.files |= {field: paths} if paths else {}
            self._states |= {path: _state(path) for path in paths}
            names = [model_files.fingerprint(s) for s in sources if s != NEW and not Path(s).is_dir()]
            self._hub |= {field: names} if names else {}
        if of_harness := [task.file for task in material.harness if task.file is not None]:
            self.files |= {"data.source.lm_eval": of_harness}
            self._states |= {path: _state(path) for path in of_harness}
        for path, state in self._states.items():
            if state is not None:
                self._entries[path] = manifest.entry(path) if _state(path) == state else MOVING
        self.refuse_changes()

    def listed(self, folder: Path) -> dict[str, list[dict[str, Any]]]:
        """{field: [{"file", "bytes", "sha256"}]}, files as seen from `folder`; of the hub {"hub": "name@commit"}."""
        listed = {
            field: [{"file": shared(path, folder), **self._entries[path]} for path in paths if path in self._entries]
            for field, paths in self.files.items()
        }
        for field, names in self._hub.items():
            listed[field] = [*listed.get(field, []), *({"hub": name} for name in names)]
        return listed

    def refuse_changes(self) -> None:
        """StateRefused, in all processes, where a file is not what it was when it was read."""
        found = chain(*distributed.gathered([[field, str(path), change] for field, path, change in self._changes()]))
        fix = "put it back and go on with --resume; or start anew, with what lies there now: --overwrite"
        problems = [
            Problem(path, field, change, "the file as it was read at the start", fix)
            for field, path, change in dict.fromkeys(map(tuple, found))
        ]
        if problems:
            raise StateRefused(problems)

    def _changes(self) -> list[tuple[str, Path, str]]:
        """(field, file, how it differs); a file is read again only where its times or its size have changed."""
        changes = []
        for field, paths in self.files.items():
            for path in paths:
                told, now = self._entries.get(path), _state(path)
                if told is None or (now == self._states[path] and told is not MOVING):
                    continue
                change = _change(path, told)
                if change is None:
                    self._states[path] = now
                else:
                    changes.append((field, path, change))
        return changes

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.refuse_changes()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.refuse_changes()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.refuse_changes()


def _model_files(source: str) -> list[Path]:
    """The files of a local model, with those of an adapter's bases."""
    folders = [source, *(adapter.base for adapter in adapters.adapters_on(source))] if Path(source).is_dir() else []
    return [path for folder in folders if Path(folder).is_dir() for path in sealed_model.read_files(Path(folder))]


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        return state_of(path.stat())
    except OSError:
        return None


def _change(path: Path, told: Mapping[str, Any]) -> str | None:
    """How a file differs from what was read; None where it only looks like it."""
    if told is MOVING:
        return "a file that changed while it was read"
    try:
        size = path.stat().st_size
        if size != told["bytes"]:
            return f"{size} bytes, where {told['bytes']} were read"
        digest = file_digest(path)
    except OSError as error:
        return f"a file that is not there any more ({error.strerror})"
    return None if digest == told["sha256"] else f"the SHA-256 {digest[:16]}…, where {told['sha256'][:16]}… was read"
