"""An exported folder as a model that a task asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keeltune.exporters import coverage, onnx
from keeltune.exporters.graph import OnnxGraph
from keeltune.exporters.writer import OnnxWriter


def graph_of(folder: Path, task: Any, config: Any, to: str, *, stored: Any = None, threads: int | None = None) -> Any:
    """The graphs in a folder. `task`: its task, or its class; `config`: the model's; `stored`: its settings of
    generation; `threads` None: as many as onnxruntime likes."""
    if coverage.writes_by_token(task, config):
        return OnnxWriter(folder, config, stored, threads=threads)
    # of a text that is spelt each row comes alone
    alone = to in coverage.ALONE and not task.generates
    return OnnxGraph(folder / onnx.FILE, config, threads=threads, alone=alone)
