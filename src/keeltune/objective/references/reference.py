"""The contract of a reference: the same N predictions as the student's, from somewhere else, without a gradient.

A file of this folder with one class is at once a value of a recipe's `reference.from`; outside the package it is
`my_package.my_module:Name`. The class says what it `needs` and `build`s itself of the run's `ReferenceContext`:

    class Uniform(Reference):
        kind = "uniform"

        def __init__(self, choices: int):
            self.choices = choices

        @classmethod
        def build(cls, context: ReferenceContext) -> Uniform:
            return cls(context.choices)

        def rows(self, batch: Batch) -> Rows:
            return Dense(torch.zeros(len(batch["targets"]), self.choices, device=batch["targets"].device))

`tests/contract/test_references_contract.py` holds every file of the folder to this page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

from keeltune.objective.predictions import Rows
from keeltune.objective.stored_predictions import StoredForm
from keeltune.utils.tensor_store import Store

Batch: TypeAlias = Mapping[str, Any]
"""A collated batch: `inputs` (what a model is called with), `targets` [N], `anchored` [N], `keys`."""

ToRows: TypeAlias = Callable[[Any, Batch], Rows]
"""A task's `rows(outputs, batch)`: a model's outputs as predictions."""

Forward: TypeAlias = Callable[[Any, Batch], Any]
"""A task's `forward(model, batch)`: how a batch is put to a model."""

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a model runs, so that a reference runs in the student's precision."""

Need: TypeAlias = Literal["models", "student", "cache", "server"]
"""What a reference is built of, and so what the run prepares for it.

models     the models that `reference.model` names (none named: the student as it was before training) are read and
           compared with the student before training, and loaded when `context.models` is first called
student    it reads the module that trains, and is built when that is complete, with its adapter; labels and texts that
           are made before training come from the models
cache      the models answer once, ahead of training, and `context.cache` is the finished cache
server     it asks a server (`reference.url`; `reference.model` is a name there), whose answers are captured ahead into
           a cache in the same way: training reads them there, as no step waits for a server
"""


@dataclass(frozen=True)
class CachedAnswers:
    """A finished cache, opened: the store, the form that reads it, and the student's choices that it holds.

    `shared`: a slice from 0 or ids [C'], where reference and student are compared on some choices alone; None: on all.
    `kind`: whose answers they are, as `Reference.kind`.
    """

    store: Store
    form: StoredForm
    shared: slice | Tensor | None = None
    kind: str = "cached"


def _nothing() -> Any:
    raise LookupError("found no such thing in this run; a class lists in `needs` what the run is to prepare for it")


def call(model: Any, batch: Batch) -> Any:
    """The plainest `Forward`."""
    return model(**batch["inputs"])


@dataclass(frozen=True)
class ReferenceContext:
    """What a run has for the reference that its recipe names.

    fields     the recipe's `reference` section by its names there: model, weight, temperature, url, allow_host, k, …
    choices    C; for positions of a text, of the longest example
    labels     the names of the choices, in the student's order; empty where they are tokens or positions
    to_rows, forward, autocast, device      how the student's outputs become predictions, how it is called, and where
    spell      how the student's tokenizer writes a token id; None where nothing is written
    models     () -> the loaded models, each a frozen `Model` whose predictions stand in the student's order, calibrated
               by its temperature; needs "models"
    student    the module that trains, with its adapter where it has one; needs "student", else None
    cache      () -> the finished cache; needs "cache"
    """

    fields: Mapping[str, Any]
    choices: int
    to_rows: ToRows
    labels: Sequence[str] = ()
    forward: Forward = call
    autocast: Autocast = nullcontext
    device: str = "cpu"
    spell: Callable[[int], str] | None = None
    models: Callable[[], Sequence[Reference]] = field(default=_nothing)
    student: Any = None
    cache: Callable[[], CachedAnswers] = field(default=_nothing)


class Reference(ABC):
    """R(·|x), frozen. `rows(batch)` is in eval mode, without a gradient, and gives the same answer twice.

    It leaves the training mode of every module and the random state as they were.
    """

    kind: str
    """The name under which `result.json` and the report name it (`reference.kind`)."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What the run prepares for it."""

    @classmethod
    def build(cls, context: ReferenceContext) -> Reference:
        """The reference of a run that names it."""
        return cls()

    @abstractmethod
    def rows(self, batch: Batch) -> Rows:
        """The reference's N predictions for `batch`, [N, C] when read."""

    def identity(self) -> Mapping[str, str]:
        """What names a server's model in a cache's manifest; nothing where files have digests."""
        return {}

    def verify(self) -> None:  # noqa: B027  (a model in memory does not change)
        """Raises StateRefused where a server no longer holds the model that `identity` named."""
