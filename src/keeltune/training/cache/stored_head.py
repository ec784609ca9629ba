"""A vocabulary head apart from its model, beside a cache of hidden states: the exact distribution without the model.

A head that is linear, with elementwise steps behind it at most (a bias, a scale, a soft cap), can be kept; another
cannot, and says so by being None. Shapes: n predictions, H the width of the head's input, V choices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from keeltune.tasks.common.lm_head import AppliedHead
from keeltune.utils.digests import file_digest
from keeltune.utils.errors import Problem
from keeltune.utils.tensor_store import BrokenShards, Store

HEAD_FILE = "head.safetensors"

STEPS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "tanh": torch.tanh,
}  # fmt: skip
"""What a model may do behind its head, for it to be kept: elementwise, with a constant at most."""


@dataclass(frozen=True)
class Head:
    """A vocabulary head apart from its model: logits = steps(h W^T + b), [n, H] -> [n, V]."""

    weight: Tensor
    bias: Tensor | None
    steps: list[tuple[str, float | Tensor | None]]

    @classmethod
    def of(cls, applied: AppliedHead) -> Head | None:
        """The head that a model was seen to apply; None where it is no linear map with elementwise steps behind it."""
        module, steps = applied.head, applied.after_head.program()
        if not isinstance(module, torch.nn.Linear) or steps is None or any(name not in STEPS for name, _ in steps):
            return None
        bias = None if module.bias is None else module.bias.detach()
        return cls(module.weight.detach(), bias, steps)

    def __call__(self, hidden: Tensor) -> Tensor:
        weight = self.weight if torch.is_autocast_enabled(hidden.device.type) else self.weight.to(hidden.dtype)
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        logits = torch.nn.functional.linear(hidden, weight, bias)
        for name, operand in self.steps:
            logits = STEPS[name](logits) if operand is None else STEPS[name](logits, operand)
        return logits

    @cached_property
    def content(self) -> bytes:
        """The file: the weight, the bias and the constants of the steps."""
        tensors = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        tensors |= {f"step_{n}": v for n, (_, v) in enumerate(self.steps) if isinstance(v, Tensor)}
        return save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})

    def facts(self) -> dict[str, Any]:
        steps = [[name, None if isinstance(v, Tensor) else v, isinstance(v, Tensor)] for name, v in self.steps]
        return {"sha256": hashlib.sha256(self.content).hexdigest(), "steps": steps}

    @classmethod
    def load(cls, store: Store, device: str) -> Head:
        require_head(store)
        facts, tensors = store.manifest["head"], load_file(store.folder / HEAD_FILE, device=device)
        steps = [(name, tensors[f"step_{n}"] if stored else value)
                 for n, (name, value, stored) in enumerate(facts["steps"])]  # fmt: skip
        return cls(tensors["weight"], tensors.get("bias"), steps)


def require_head(store: Store) -> None:
    """Raises BrokenShards where the head beside a cache of hidden states is not what was written."""
    file, told = store.folder / HEAD_FILE, store.manifest["head"]["sha256"]
    digest = file_digest(file) if file.is_file() else None
    if digest != told:
        found = f"no {file.name}" if digest is None else f"{file.name} with the SHA-256 {digest[:16]}…"
        raise BrokenShards(Problem(str(store.folder), "head", found, f"{told[:16]}…, as written", store.mend))
