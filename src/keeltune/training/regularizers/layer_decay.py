from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from keeltune.models.surgery import stacks
from keeltune.models.vocabulary import token_tables
from keeltune.recipe.field_types import Share
from keeltune.recipe.fields import Recipe
from keeltune.tasks.task import Task
from keeltune.training.regularizers._refusals import depth, without_stacks
from keeltune.training.regularizers.regularizer import Refusal, Regularizer


class LayerDecay(Regularizer):
    """Each parameter's learning rate is multiplied by decay^(L − l) in layer l of a stack of L, counted from 1.

    Below a stack (its embeddings) it is decay^L. Above it (the last norm, a pooler, the head) it is 1, as in the top
    layer. An encoder and a decoder are two stacks, each counted by itself. A head that is tied to the embeddings is
    them. An adapter belongs to the layer that it is put on.

    Source: Howard & Ruder 2018, https://arxiv.org/abs/1801.06146 (discriminative fine-tuning); Zhang et al. 2020,
    https://arxiv.org/abs/2006.05987.
    """

    parameter = Share
    description = (
        "The learning rate of layer l of L is learning_rate · decay^(L − l); the embeddings have the "
        "lowest, the head the whole (arXiv:1801.06146, 2006.05987). 0.9, say."
    )
    phrase = "lower learning rates in lower layers ({value} a layer)"
    shardable = True

    def refused(self, recipe: Recipe, task: Task | None) -> Iterator[Refusal]:
        if task is not None and not depth(recipe, task):
            yield without_stacks(task)

    def on_optimizer(self, optimizer: Any) -> None:
        """Cuts the groups by layer; weight decay and all else of a group stay.

        The highest rate comes first, as it is the one that a log shows.
        """
        factors = self.factors(self.model)
        of = {id(parameter): factors[name] for name, parameter in self.model.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            for factor in sorted({of[id(p)] for p in group["params"]}, reverse=True):
                chosen = [p for p in group["params"] if of[id(p)] == factor]
                groups.append({**group, "params": chosen, "lr": group["lr"] * factor})
        optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])

    def factors(self, model: nn.Module) -> dict[str, float]:
        """What each parameter's rate is multiplied by, by its name."""
        lengths, names = stacks(model), [name for name, _ in model.named_parameters()]
        head = _head(model)
        return {name: 1.0 if name in head else self.value ** _below_top(name, names, lengths) for name in names}


def _below_top(name: str, names: list[str], lengths: dict[str, int]) -> int:
    """How many layers a parameter lies below the top of its stack; L for what is below all of them, 0 for the rest."""
    for stack, length in lengths.items():
        if name.startswith(f"{stack}."):
            return length - 1 - int(name.removeprefix(f"{stack}.").split(".")[0])
    parts = name.split(".")
    for end in range(len(parts) - 1, -1, -1):  # the innermost module around it that holds a stack
        around = ".".join(parts[:end])
        inside = {s: length for s, length in lengths.items() if not around or s.startswith(f"{around}.")}
        if inside:
            first = min(names.index(n) for n in names if any(n.startswith(f"{s}.") for s in inside))
            embeds, ends = (any(word in part for part in parts) for word in ("embed", "final"))
            before = names.index(name) < first and not ends  # OPT registers its final norm before its layers
            return max(inside.values()) if before or embeds else 0
    return 0


def _head(model: Any) -> set[str]:
    """The names of a vocabulary head's own parameters; none where they are the embeddings'."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    in_head = {id(p) for p in head.parameters()} if head is not None else set()
    in_tables = {id(p) for table in token_tables(model) for p in table.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in in_head - in_tables}
