"""The contract of a regulariser: what it declares, and the moments at which a run calls it.

A file in this folder with one final class is at once a name of `training.regularizers`, a row of the JSON Schema
and of the reference page, a sentence of the report and a case of the contract tests. Outside the package:
`my_package.my_module:Name`. A class declares its parameter and overrides the hooks it needs; the others do nothing.

    regularizers: {shrink: 0.01}

    class Shrink(Regularizer):
        parameter = PositiveFloat
        description = "λ of λ · Σ |θ| over the weights that train."
        phrase = "a penalty on weights ({value})"

        def refused(self, recipe, task):
            if recipe.training.lora:
                yield Refusal("no shrink: adapters start at nothing")

        def on_weights(self):
            return self.value * sum(p.abs().sum() for p in self.model.parameters() if p.requires_grad)

| when | hook | what it is handed and gives back |
| --- | --- | --- |
| the recipe is read, the data prepared | `refused` | recipe and task -> the reasons for which it has no meaning |
| the student is loaded | `on_load` | a `Loaded` -> a `Loaded` |
| the model is complete (adapters and all) | `on_model` | the model -> a line for the log |
| the trainer is made | `on_train_begin` | from here on there is `self.model` |
| the optimizer is made | `on_optimizer` | its groups, to be changed |
| a micro-batch goes forward and backward | `on_micro_batch` | a context around it |
| its loss is made | `on_labelled`, `on_weights` | log-probabilities -> [n] nats; nothing -> a scalar |
| the optimizer has stepped | `on_step_end` | the step's number |
| the model is measured, kept or saved | `on_evaluate` | – |
| a checkpoint is written, or read | `state`, `load_state` | tensors by name |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from keeltune.models.loading import Loaded
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task


@dataclass(frozen=True)
class Refusal:
    """Why a regulariser has no meaning in a run: what was expected in its place and how to fix it.

    `found`: what stands in its way, where that is not the value itself.
    """

    expected: str
    fix: str = "leave it out"
    found: str | None = None


class Regularizer(ABC):
    """One regulariser with its value. Its hooks are called in the order of the table above."""

    parameter: ClassVar[Any]
    """The type of its value in a recipe, as pydantic reads it; null and false switch it off."""

    description: ClassVar[str]
    """What the value means, for the schema and the reference page."""

    phrase: ClassVar[str]
    """What a report says of it, with `{value}` where the value stands; a page in another language looks this up in its
    table (`reports/localization.py`) and leaves it as it is where it finds nothing."""

    passes: ClassVar[int] = 0
    """Forward passes of one micro-batch that `on_labelled` compares; 0: it is not called. A pass takes as long as a
    training step without any."""

    repeats: ClassVar[bool] = False
    """Whether a micro-batch goes forward and backward a second time, within `on_micro_batch(repeated=True)`."""

    shardable: ClassVar[bool] = False
    """Whether it works where each process holds a part of every weight (`training/sharding.py`)."""

    copies: ClassVar[int] = 0
    """Numbers that are stored for each weight that trains, in float32: for the estimate of memory."""

    model: Any
    """The model that trains, without the wrapper of several processes; there from `on_train_begin` on."""

    fresh: Sequence[str] = ()
    """The names of its weights that no checkpoint held."""

    name: str
    """As the recipe writes it: its file's name, or `my_package.my_module:Name`."""

    def __init_subclass__(cls) -> None:
        """Refuses a class whose report would fail after the training: TypeError, which `keeltune check` shows."""
        for declared in ("parameter", "description", "phrase"):
            if not hasattr(cls, declared):
                raise TypeError(f"{cls.__name__} declares no {declared}; see {__name__}")
        try:
            cls.phrase.format(value="1")
        except (LookupError, ValueError, AttributeError) as error:
            raise TypeError(f"{cls.__name__}.phrase holds more than {{value}}: {cls.phrase!r}") from error

    def __init__(self, value: Any):
        package, _, file = type(self).__module__.rpartition(".")
        self.name = file if package == __package__ else f"{type(self).__module__}:{type(self).__name__}"
        self.value = value

    def begin(self, model: Any, fresh: Sequence[str] = ()) -> None:
        """What a trainer calls when it is made."""
        self.model, self.fresh = model, fresh
        self.on_train_begin()

    # Before training

    @abstractmethod
    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        """The reasons for which it has no meaning; no weight is loaded. `task`: None while the recipe is only read."""

    def on_load(self, loaded: Loaded, auto_model: str, seed: int) -> Loaded:
        """The student as it starts; the same each time. `auto_model`: the transformers class that has loaded it."""
        return loaded

    def on_model(self, model: Any) -> str | None:
        """Changes what of the model trains; returns a note for the log."""
        return None

    def on_train_begin(self) -> None:
        """Once, before the first step."""
        return None

    def on_optimizer(self, optimizer: Any) -> None:
        """Changes the groups of an optimizer that has not stepped yet."""
        return None

    # In a step

    def on_micro_batch(self, *, repeated: bool) -> AbstractContextManager[None]:
        """Around a micro-batch's forward and backward pass; `repeated`: around the second one, in which the formula is
        taken once more, without matching terms, without what compares passes, and none of it reported."""
        return nullcontext()

    def on_labelled(self, passes: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What it adds to each labelled prediction's loss: log-probabilities [n, C] of each pass, labels [n] -> [n]
        nats. Their weighted sum is divided by the step's n_CE. Not called where there are fewer than `passes`."""
        raise NotImplementedError(f"{self.name} declares {self.passes} passes and compares none")

    def on_weights(self) -> Tensor | None:
        """A scalar that a step's loss grows by: a term of the weights alone. Each micro-batch carries its share."""
        return None

    # Between steps

    def on_step_end(self, step: int, steps: int) -> None:
        """After optimizer step `step` (from 1) of `steps`."""
        return None

    def on_evaluate(self) -> None:
        """Puts the weights that are measured, kept and saved into the model, as new `weight.data`: the trainer puts
        the old ones back."""
        return None

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold for a run to go on to the bit."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; called after `on_train_begin`."""
        return None

    def reported(self, steps: int) -> Any:
        """The value as `result.json` has it, of a run of so many steps."""
        return self.value
