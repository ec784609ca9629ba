"""Weights that no checkpoint held, such as a new head's, and the learning rate that they have for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keeltune.models.surgery import stacks


@dataclass(frozen=True)
class NewWeights:
    """Their names in the model before adapters were put on, and their peak rate; None: that of the others.

    Those inside a stack of layers (`new_top_layers`) keep the others' rate: they are many, and what lies on them is new
    too.
    """

    names: tuple[str, ...] = ()
    learning_rate: float | None = None

    def set_rate(self, optimizer: Any, model: Any) -> None:
        """Cuts an optimizer's groups in two, those of the new weights behind; weight decay and all else stay."""
        if self.learning_rate is None or not self.names:
            return
        layers = tuple(f"{stack}." for stack in stacks(model))
        new = {
            id(weight) for name, weight in model.named_parameters() if _plain(name) in self.names
            and not name.startswith(layers)
        }  # fmt: skip
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            of_group = {flag: [p for p in group["params"] if (id(p) in new) == flag] for flag in (False, True)}
            groups += [{**group, "params": of_group[False]}] if of_group[False] else []
            groups += [{**group, "params": of_group[True], "lr": self.learning_rate}] if of_group[True] else []
        optimizer.param_groups[:] = sorted(groups, key=lambda group: group["lr"] == self.learning_rate)


def _plain(name: str) -> str:
    """A weight's name without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
