"""The fields of `training.regularizers`: each is a file of `keeltune/training/regularizers/`, and off by default."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from keeltune.recipe.field_types import AsNumber, Auto, AutoOrKind, Declared, Share


class Regularizers(Declared):
    """Options against overfitting, all off by default; any of them together, with any method."""

    layer_decay: Share | None = Field(
        default=None,
        description="The learning rate of layer l of L is learning_rate · decay^(L − l); the embeddings have the "
        "lowest, the head the whole (arXiv:1801.06146, 2006.05987). 0.9, say.",
    )
    r_drop: PositiveFloat | None = Field(
        default=None,
        description="α of two passes with other dropout: the mean of their losses + α · ½ [KL(p₁‖p₂) + KL(p₂‖p₁)] of "
        "each labelled prediction (R-Drop, arXiv:2106.14448). 1.0, say; takes twice the time.",
    )
    weight_average: Annotated[Auto | AsNumber[Share], AutoOrKind] | None = Field(
        default=None,
        description="β of a running average of the weights, θ̄ = Σ β^(t−i) θ_i / Σ β^(t−i), which is what is measured "
        "and kept (arXiv:1703.01780). auto: 1 − 1 / (0.1 · steps), at most 0.999.",
    )
    label_smoothing: Share | None = Field(
        default=None,
        description="ε of (1 − ε) · CE + ε · mean over the choices of −log p, while training; reported losses are not "
        "smoothed (arXiv:1512.00567). 0.1, say; not for a model that is to teach (arXiv:1906.02629).",
    )
    fgm: PositiveFloat | None = Field(
        default=None,
        description="ε of L(e) + L(e + ε · g / ‖g‖): the loss a second time at token embeddings that are moved along "
        "each row's gradient g (FGM, arXiv:1605.07725). 0.1, say, a fiftieth of a short text's embeddings (a fifth was "
        "ruinous); takes twice the time.",
    )
    new_top_layers: PositiveInt | None = Field(
        default=None,
        description="How many of the last layers start from random weights, with the pooler (arXiv:2006.05987).",
    )
    freeze_embeddings: bool = Field(
        default=False,
        description="The tables of token embeddings do not train, nor does an output head that is tied to them "
        "(arXiv:1911.03090).",
    )

    @property
    def used(self) -> dict[str, Any]:
        """Those that are on, with their values."""
        return {name: value for name, value in self.model_dump().items() if value not in (None, False)}
