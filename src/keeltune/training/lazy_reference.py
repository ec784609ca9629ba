"""The reference's models: loaded when they are first needed, and let go of when nothing needs them any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference


class LazyReference:
    """What answers before training, and during it where nothing is cached.

    Args:
        load: loads the models. build: makes the reference of a function that returns them, loaded once.
    """

    def __init__(
        self, load: Callable[[], list[Model]], build: Callable[[Callable[[], Sequence[Model]]], Reference]
    ) -> None:
        self._load, self._build = load, build
        self._models: list[Model] | None = None
        self._reference: Reference | None = None

    def models(self) -> list[Model]:
        """The loaded models, each a `Model`."""
        if self._models is None:
            with torch.random.fork_rng():  # training starts from the same random state, whoever was loaded before
                self._models = self._load()
        return self._models

    @property
    def loaded(self) -> list[Model]:
        """Those that are in memory."""
        return self._models or []

    def __call__(self) -> Reference:
        if self._reference is None:
            with torch.random.fork_rng():
                self._reference = self._build(self.models)
        return self._reference

    def drop(self) -> None:
        self._models = self._reference = None
