from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field

from keeltune.models import loading
from keeltune.recipe.field_types import Text
from keeltune.recipe.fields import Recipe
from keeltune.recipe.model_fields import NewModel
from keeltune.tasks.task import Task
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class Freeze(Regularizer):
    """Parts of the model that do not train, by the names of its modules: `[encoder]`, `[embeddings, "layer.[0-3]"]`.

    A name stands for every module whose dotted name is it or ends in it; `*`, `?` and `[…]` match as in file names. A
    weight that a part shares with one outside it trains on: of a T5's encoder the tokens' embeddings, which its decoder
    reads too.

    Source: Gandhi et al. 2023, https://arxiv.org/abs/2311.00430, who freeze the encoder of a speech model and train a
    decoder of two layers.
    """

    parameter = Annotated[list[Text], Field(min_length=1)]
    description = (
        "Names of modules that do not train, such as [encoder]; `*` matches as in file names (arXiv:2311.00430)."
    )
    phrase = "frozen: {value}"
    shardable = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if recipe.training.lora is not None:
            yield Refusal(f"no {self.name}: only adapters train (lora), and nothing else does")
        if isinstance(recipe.model, NewModel):
            yield Refusal(f"no {self.name}: the weights of a new model are random, and must train")
        if task is None:
            return
        model = loading.skeleton(task.settings.config, task.settings.auto_model, recipe.where("model"), "model")
        for name in self.value:
            if not modules_of(model, name):
                parts = ", ".join(dict.fromkeys(path for path, _ in model.named_modules() if 0 < path.count(".") < 2))
                expected = f"the name of a module of {task.settings.config.model_type}, such as {parts[:200]}"
                yield Refusal(expected, "correct the name, or leave it out", f"{name}, which no module is called")
        if len(frozen_weights(model, self.value)) == len(list(model.parameters())):
            yield Refusal("some weights that train", "leave a part out of it", "every weight of the model")

    def on_model(self, model: Any) -> str:
        frozen = frozen_weights(model, self.value)
        for weight in frozen:
            weight.requires_grad_(False)
        return f"{sum(p.numel() for p in frozen) / 1e6:.1f} M weights of {', '.join(self.value)} do not train"


def modules_of(model: Any, name: str) -> list[str]:
    """The dotted names of the modules that a name stands for."""
    return [path for path, _ in model.named_modules() if path and fnmatchcase(f".{path}", f"*.{name}")]


def frozen_weights(model: Any, names: Sequence[str]) -> list[Any]:
    """The weights that lie in these modules alone."""
    parts = tuple(f"{path}." for name in names for path in modules_of(model, name))
    every = list(model.named_parameters(remove_duplicate=False))
    outside = {id(weight) for path, weight in every if not path.startswith(parts)}
    inside = {id(weight): weight for path, weight in every if path.startswith(parts)}
    return [weight for key, weight in inside.items() if key not in outside]
