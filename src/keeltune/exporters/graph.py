"""An ONNX graph in the place of the model that it was made of: a task asks it as it asks the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class OnnxGraph(nn.Module):
    """Runs on the processor; `threads` None: as many as it likes. It has the model's configuration and no weights."""

    def __init__(self, file: Path, config: Any, threads: int | None = None):
        super().__init__()
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)  # errors; it warns of shapes that it works out itself
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.config = config
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.reads = [one.name for one in self.session.get_inputs()]
        self.says = [one.name for one in self.session.get_outputs()]

    def forward(self, **inputs: Tensor) -> Any:
        """The outputs by their names, as transformers has them."""
        read = self.session.run(self.says, {name: inputs[name].cpu().numpy() for name in self.reads})
        return SimpleNamespace(**{name: torch.from_numpy(one) for name, one in zip(self.says, read, strict=True)})
