"""Value and gradient of a loss on the backend that Keras has; TensorFlow or PyTorch are imported where they are it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

import keras

Tensor = Any
Made = TypeVar("Made")

BACKENDS = ("tensorflow", "torch")


def require_backend() -> None:
    """Raises ValueError on a backend whose gradients are not taken here."""
    if (backend := keras.backend.backend()) not in BACKENDS:
        raise ValueError(f"found the Keras backend {backend}, expected one of {', '.join(BACKENDS)}: set KERAS_BACKEND "
                         "before Keras is imported")  # fmt: skip
    if backend == "tensorflow":
        replicas = import_module("tensorflow").distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(f"found a strategy of {replicas} replicas, expected one: a step is counted on one device")


def without_gradient(function: Callable[[], Made]) -> Made:
    """What `function` makes, with nothing kept for a gradient."""
    if keras.backend.backend() != "torch":
        return function()  # outside of a tape nothing is kept
    with import_module("torch").no_grad():
        return function()


def with_gradients(function: Callable[[], tuple[Tensor, Made]], variables: Sequence[Any]) -> tuple[Made, list[Tensor]]:
    """The second thing that `function` makes, and the gradient of the first, a scalar, at each of the variables.

    None where the scalar does not depend on a variable. TensorFlow gives an embedding's gradient as slices of its
    table; they are added up here, since Keras' Adam on slices is not Adam: two steps at a rate of 0.1 moved a weight by
    0.118 where Adam moves it by 0.2 (Keras 3.15.1).
    """
    if keras.backend.backend() == "torch":
        value, made = function()
        torch = import_module("torch")
        return made, list(torch.autograd.grad(value, [v.value for v in variables], allow_unused=True))
    tensorflow = import_module("tensorflow")
    with tensorflow.GradientTape() as tape:
        value, made = function()
    found = tape.gradient(value, list(variables))
    return made, [None if gradient is None else tensorflow.convert_to_tensor(gradient) for gradient in found]


def added(total: Sequence[Tensor] | None, more: Sequence[Tensor]) -> list[Tensor]:
    """The sum of two lists of gradients, variable by variable."""
    if total is None:
        return list(more)
    return [b if a is None else a if b is None else a + b for a, b in zip(total, more, strict=True)]


def apply(optimizer: Any, gradients: Sequence[Tensor], variables: Sequence[Any]) -> None:
    """One step of the optimizer."""
    without_gradient(lambda: optimizer.apply(list(gradients), list(variables)))
