from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from keeltune.recipe.field_types import Share
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import without_labelled_predictions
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class LabelSmoothing(Regularizer):
    """What smoothing adds to a labelled prediction's cross-entropy.

        (1 − ε) · CE + ε · mean_c −log p_c   =   CE + ε · (mean_c −log p_c − CE)

    The mean runs over the choices that a prediction has: those of probability 0 (the padded places of a span) are none.
    The second form leaves CE alone, so that what is reported is not smoothed. With several passes it is their mean.

    Source: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567. A teacher should not be trained with it, since it
    erases how alike the wrong choices are: Müller et al. 2019, https://arxiv.org/abs/1906.02629.
    """

    parameter = Share
    description = (
        "ε of (1 − ε) · CE + ε · mean over the choices of −log p, while training; reported losses are not "
        "smoothed (arXiv:1512.00567). 0.1, say; not for a model that is to teach (arXiv:1906.02629)."
    )
    phrase = "label smoothing ({value})"
    shardable = True
    passes = 1

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        yield from without_labelled_predictions(self.name, recipe, task)

    def on_labelled(self, passes: Sequence[Tensor], targets: Tensor) -> Tensor:
        terms = [self._term(log_probs, targets) / len(passes) for log_probs in passes]
        return torch.stack(terms).sum(0)

    def _term(self, log_probs: Tensor, targets: Tensor) -> Tensor:
        """[n, C], [n] -> [n] nats."""
        impossible = log_probs == -torch.inf
        mean = log_probs.masked_fill(impossible, 0.0).sum(-1) / (~impossible).sum(-1)
        label = log_probs.gather(-1, targets[:, None]).squeeze(-1)
        return self.value * (label - mean)
