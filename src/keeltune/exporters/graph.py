"""An ONNX graph in the place of the model that it was made of: a task asks it as it asks the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def tokens_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """Which places of a batch [B, S] are no padding: all, where a model has no mask, whose rows run by their length."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


class OnnxGraph(nn.Module):
    """Runs on the processor; it has the model's configuration and no weights.

    `threads` None: as many as it likes. `alone`: each row of a batch is run by itself and without its padding, for a
    graph that rounds to the range of what it is given (`int8.py`).
    """

    def __init__(self, file: Path, config: Any, *, threads: int | None = None, alone: bool = False):
        super().__init__()
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # errors; it warns of shapes that it works out itself
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.config, self.alone = config, alone
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.reads = [one.name for one in self.session.get_inputs()]
        self.says = [one.name for one in self.session.get_outputs()]
        self.by_token = {one.name: isinstance(one.shape[1], str) for one in self.session.get_outputs()}

    def forward(self, **inputs: Tensor) -> Any:
        """The outputs by their names, as transformers has them."""
        given = {name: inputs[name].cpu() for name in self.reads}
        return SimpleNamespace(**(self._one_by_one(given) if self.alone else self._run(given)))

    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        read = self.session.run(self.says, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(one) for name, one in zip(self.says, read, strict=True)}

    def _one_by_one(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same; what a padded place says is 0."""
        outputs: dict[str, list[Tensor]] = {name: [] for name in self.says}
        for row, mask in enumerate(tokens_of(inputs)):
            read = self._run({name: value[row : row + 1, mask].contiguous() for name, value in inputs.items()})
            for name, one in read.items():
                if self.by_token[name]:
                    whole = one.new_zeros(1, len(mask), *one.shape[2:])
                    whole[:, mask] = one
                    one = whole
                outputs[name].append(one)
        return {name: torch.cat(parts) for name, parts in outputs.items()}
