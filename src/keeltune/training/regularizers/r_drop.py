from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import PositiveFloat
from torch import Tensor

from keeltune.models.surgery import drops_out
from keeltune.objective.divergences.divergence import kl
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import without_labelled_predictions
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class RDrop(Regularizer):
    """α · ½ · [KL(p ‖ q) + KL(q ‖ p)] of each labelled prediction.

    p and q are the student's own distributions in two forward passes, which differ by what dropout left out; gradients
    flow into both. The loss of a step is the mean of the two passes' losses, CE and D alike, and this term's sum over
    the labelled predictions / n_CE.

    Source: Liang et al. 2021, https://arxiv.org/abs/2106.14448 (eq. 2 and 3; theirs is the sum of the two passes, so
    that their α is twice ours).
    """

    parameter = PositiveFloat
    description = (
        "α of two passes with other dropout: the mean of their losses + α · ½ [KL(p₁‖p₂) + KL(p₂‖p₁)] of "
        "each labelled prediction (R-Drop, arXiv:2106.14448). 1.0, say; takes twice the time."
    )
    phrase = "R-Drop ({value})"
    shardable = True
    passes = 2

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        yield from without_labelled_predictions(self.name, recipe, task)
        lora = recipe.training.lora
        if task is not None and not drops_out(task.settings.config) and not (lora and lora.dropout):
            reason = "two passes differ by dropout alone, and this model has none (all its rates are 0)"
            yield Refusal(f"no {self.name}: {reason}")

    def on_labelled(self, passes: Sequence[Tensor], targets: Tensor) -> Tensor:
        p, q, *_ = passes
        return 0.5 * self.value * (kl(p, q) + kl(q, p))
