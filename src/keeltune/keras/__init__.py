"""The formula in Keras 3, on TensorFlow or PyTorch; nothing here imports torch.

    import keeltune.keras as kk

    model = kk.compile(student, teacher, kk.Objective("reverse-kl", weight=0.5), optimizer="adamw")
    model.fit(texts, labels, batch_size=32)             # the student learns; what is saved is the student
    kk.divergences.reverse_kl(log_p, log_q)             # [..., C], [..., C] -> [...] nats

Values and gradients are those of `keeltune.objective`: `tests/keras/` holds each to it in float64.
It needs `pip install 'keeltune[tensorflow]'`.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("keras") is None:
    raise ImportError("keeltune.keras needs Keras 3, which is not installed; pip install 'keeltune[tensorflow]'")

from keeltune.keras import divergences as divergences
from keeltune.keras.cached import Cached
from keeltune.keras.formula import Counts, Objective, Terms
from keeltune.keras.predictions import IGNORED, Coarse, cross_entropy
from keeltune.keras.training import Distiller, compile

__all__ = [
    "IGNORED", "Cached", "Coarse", "Counts", "Distiller", "Objective", "Terms", "compile", "cross_entropy",
    "divergences",
]  # fmt: skip
