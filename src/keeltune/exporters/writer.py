"""The graphs of a model that writes, in the place of that model: a task asks them as it asks the other.

Each row is asked by itself and without its padding (`greedy.py`), however many are given together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from keeltune.exporters.greedy import Greedy

WRITTEN = "decoder_input_ids"


class OnnxWriter(nn.Module):
    """Runs on the processor; it has the model's configuration and settings of generation, and no weights."""

    def __init__(self, folder: Path, config: Any, generation_config: Any, *, threads: int | None = None):
        super().__init__()
        self.config, self.generation_config = config, generation_config
        self.greedy = Greedy(folder, threads)

    def forward(self, **inputs: Tensor) -> Any:
        """Logits [B, T, V] of the decoder's tokens, as transformers has them; 0 at padding before or behind them."""
        lines = []
        for row, whole in zip(_rows(inputs, self.crosses), range(len(next(iter(inputs.values())))), strict=True):
            state, ids = self.greedy.begin(row, row[WRITTEN][0].tolist() if self.crosses else None)
            logits = torch.from_numpy(self.greedy.step(state, ids))
            if not self.crosses:
                mask = _mask(inputs)[whole]
                padded = logits.new_zeros(len(mask), logits.shape[1])
                padded[mask] = logits
                logits = padded
            lines.append(logits)
        return SimpleNamespace(logits=torch.stack(lines))

    def generate(self, *, max_new_tokens: int | None = None, **inputs: Tensor) -> Tensor:
        """Token ids [B, …] as transformers' `generate` gives them: behind what was given, padded with its own token."""
        lines = []
        for row in _rows(inputs, self.crosses):
            opening = row[WRITTEN][0].tolist() if WRITTEN in row else None
            lines.append(self.greedy.write(row, opening, max_new_tokens))
        before = inputs.get(WRITTEN) if self.crosses else inputs["input_ids"]
        if before is None:
            before = torch.full((len(lines), 1), self.generation_config.decoder_start_token_id)
        pad = self.generation_config.pad_token_id
        longest = max(map(len, lines))
        written = torch.full((len(lines), longest), 0 if pad is None else pad)
        for place, line in enumerate(lines):
            written[place, : len(line)] = torch.tensor(line, dtype=torch.long)
        return torch.cat([before, written], 1)

    def detect_language(self, input_features: Tensor, generation_config: Any) -> Tensor:
        """The language that is heard in each recording, as `transformers` hears it: its token's id [B]."""
        start, among = generation_config.decoder_start_token_id, list(generation_config.lang_to_id.values())
        rows = _rows({"input_features": input_features}, True)
        return torch.tensor([self.greedy.likeliest(row, [start], among) for row in rows])

    @property
    def dtype(self) -> torch.dtype:
        """What it computes with."""
        return torch.float32

    @property
    def crosses(self) -> bool:
        """Whether an encoder reads and a decoder writes."""
        return self.greedy.encoder is not None


def _mask(inputs: Mapping[str, Tensor]) -> Tensor:
    """Which places of a decoder's texts [B, S] are no padding."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def _rows(inputs: Mapping[str, Tensor], crosses: bool) -> Iterator[dict[str, Any]]:
    """Each row of a batch as arrays [1, …], without the padding of what is read; that behind a right answer, which
    changes nothing before it, stays."""
    mask = inputs.get("attention_mask") if crosses else _mask(inputs)
    for row in range(len(next(iter(inputs.values())))):
        line = {}
        for name, value in inputs.items():
            kept = value[row : row + 1]
            if mask is not None and name != WRITTEN and value.shape[:2] == mask.shape:
                kept = kept[:, mask[row].bool()]
            line[name] = kept.cpu().numpy()
        yield line
