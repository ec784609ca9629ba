"""How a model was trained, in sentences: the method, and the regularisers that were on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.utils.messages import Message, joined

METHODS = {
    "fine-tuning": "The model was fine-tuned on the training rows, without a reference.",
    "distillation": "The model was trained on the training rows while held near a teacher.",
    "cross-domain": "The model was trained on the new domain while held near the source-domain model.",
}

REGULARIZERS = {
    "layer_decay": "lower learning rates in lower layers ({value} a layer)",
    "r_drop": "R-Drop ({value})",
    "weight_average": "averaged weights ({value})",
    "label_smoothing": "label smoothing ({value})",
    "fgm": "moved embeddings (FGM, {value})",
    "new_top_layers": "new top layers ({value})",
    "freeze_embeddings": "frozen token embeddings",
}
"""What a run says of each regulariser that was on."""


def findings(result: Mapping[str, Any]) -> list[str]:
    """The method, and the regularisers where there were any."""
    used = (result["training"] or {}).get("regularizers") or {}
    parts = [
        Message(REGULARIZERS[name], value=value if isinstance(value, str) else f"{value:g}")
        for name, value in used.items()
    ]
    regularized = [Message("Regularised by: {parts}.", parts=joined(parts, ", "))] if parts else []
    return [METHODS[result["method"]], *regularized]
