"""What a model computes where its files hold nothing: sinusoids for positions, masks, distances.

Everything else of a model is as large as its files. These tables are as large as its configuration says, and made when
it is loaded: some of them number by number in Python, a million a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from keeltune.models.configuration_limits import whole_numbers
from keeltune.models.weight_files import read_header
from keeltune.utils.errors import shown

MOST_WEIGHTS = 2**22
"""Numbers of weights that no file holds: Marian has 1,024 positions of 1,024 numbers, twice."""

MOST_BUFFERS = 2**26
"""Numbers of tables beside the weights: GPT-Neo has 2,048 × 2,048 in each layer."""


def too_many(model: Any, missing: Iterable[str], source: str) -> tuple[str, str, str] | None:
    """Found, expected and fix where a model (on the meta device) computes more than any does, or None.

    missing  weights that the files should hold, which is said elsewhere
    source   the folder of its files
    """
    shapes = [entry["shape"] for file in Path(source).glob("*.safetensors") for entry in read_header(file)[1].values()]
    stored, known = sum(map(prod, shapes)), {tuple(shape) for shape in shapes}
    given = set(missing)
    weights = {name: weight for name, weight in model.named_parameters() if name not in given}
    buffers = dict(model.named_buffers())
    computed = sum(weight.numel() for weight in weights.values()) - stored
    if computed > max(MOST_WEIGHTS, stored // 8):
        return _reason(source, model, {name: w for name, w in weights.items() if tuple(w.shape) not in known})
    if sum(buffer.numel() for buffer in buffers.values()) > max(MOST_BUFFERS, 4 * stored):
        return _reason(source, model, buffers)
    return None


def _reason(source: str, model: Any, tables: dict[str, Tensor]) -> tuple[str, str, str]:
    """With the largest table, and the fields of the configuration that have its sizes."""
    name, table = max(tables.items(), key=lambda named: named[1].numel())
    fields = [f"{field}: {value}" for field, value in whole_numbers(model.config.to_dict()) if value in table.shape]
    found = f"{shown(source)}: {name} {list(table.shape)}, which no file of it holds"
    return (
        f"{found} ({', '.join(fields)})" if fields else found,
        f"what is computed and not stored in sizes of the model's own: {MOST_WEIGHTS} numbers, more in larger models",
        "correct config.json (its positions), or copy the model folder again",
    )
