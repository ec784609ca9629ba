from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import PositiveInt

from keeltune.models.loading import Loaded
from keeltune.models.surgery import stacks
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import depth, without_stacks
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class NewTopLayers(Regularizer):
    """The last layers start as their architecture initialises them, from the run's seed; and so does the pooler.

    The top layers of a pretrained model serve its old task; random ones make training on few rows steadier. Of an
    encoder and a decoder it is the decoder's layers. The weights count as fresh: the model before training is nothing
    to be scored, or held near.

    Source: Zhang et al. 2020, https://arxiv.org/abs/2006.05987 (section 5).
    """

    parameter = PositiveInt
    description = "How many of the last layers start from random weights, with the pooler (arXiv:2006.05987)."
    phrase = "new top layers ({value})"
    shardable = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        interpolate, cross_domain = recipe.training.interpolate, recipe.keeps_source_model
        reasons = {
            "the source model is to be kept (method: cross-domain), not its layers drawn anew": cross_domain,
            "only adapters train (lora), and new layers would stay random": recipe.training.lora is not None,
            "all weights of a new model are random already": isinstance(recipe.model, NewModel),
            "interpolate goes back towards a start whose top layers are random": isinstance(interpolate, float)
            or interpolate == "recommended",
        }
        yield from (Refusal(f"no {self.name}: {reason}") for reason, holds in reasons.items() if holds)
        if task is not None:
            layers = depth(recipe, task)
            if not layers:
                yield without_stacks(task)
            elif self.value > layers:
                yield Refusal(f"at most {layers}, the layers of the last stack", f"write {layers} at most")

    def on_load(self, loaded: Loaded, auto_model: str, seed: int) -> Loaded:
        import transformers

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            initialised = getattr(transformers, auto_model).from_config(loaded.model.config, dtype=torch.float32)
        random, weights = initialised.state_dict(), loaded.model.state_dict()
        tops = list(_top_modules(loaded.model, self.value))
        names = [name for name in weights if any(name.startswith(f"{top}.") for top in tops)]
        with torch.no_grad():
            for name in names:
                weights[name].copy_(random[name])
        millions = sum(weights[name].numel() for name in names) / 1e6
        note = f"the last {self.value} layers start anew ({millions:.1f} M weights)"
        fresh = tuple(dict.fromkeys([*loaded.fresh, *names]))
        return Loaded(loaded.model, loaded.processor, loaded.source, fresh, (*loaded.notes, note))


def _top_modules(model: Any, count: int) -> Iterator[str]:
    """The names of the modules that start anew: the last layers of the last stack, and the pooler."""
    stack, length = list(stacks(model).items())[-1]
    yield from (f"{stack}.{index}" for index in range(length - count, length))
    yield from (name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] == "pooler")
