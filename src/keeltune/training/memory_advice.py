"""What is said where a batch does not fit into the memory: its size, and the next smaller one of the same steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from keeltune.recipe.training_fields import Training
from keeltune.utils.system_faults import is_out_of_memory


@contextmanager
def at_hand(batch: Mapping[str, Any]) -> Iterator[None]:
    """Within: an error of a full memory says how large the batch is that is at hand."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(f"on a batch of {size_of(batch)}")
        raise


def size_of(batch: Mapping[str, Any]) -> str:
    """The rows of a batch and its longest input, in words."""
    lengths = [value.shape[1] for value in batch["inputs"].values() if isinstance(value, Tensor) and value.dim() > 1]
    return f"{len(batch['keys'])} rows × {max(lengths, default=1)}"


def smaller_batch(training: Training) -> str:
    """The recipe's next smaller setting, of which the steps, and so the result, are the same where there is one."""
    size, parts = training.batch_size, training.gradient_accumulation_steps
    if size is None:
        return f"lower training.tokens_per_batch ({training.tokens_per_batch} now) and start over with --overwrite"
    if size == 1:
        return "lower max_length, train fewer weights (training.lora), or take a smaller model"
    step = size * parts
    smaller = next(n for n in range(size // 2, 0, -1) if step % n == 0)
    return (
        f"set training.batch_size: {smaller} and training.gradient_accumulation_steps: {step // smaller}, which are "
        "the same steps, and go on with --resume"
    )
