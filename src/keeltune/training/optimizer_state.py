"""An optimizer's moments by the names of their weights, its groups' numbers, and a schedule's position.

torch numbers the weights in the order of the groups. A name stays where an order does not: in another version of a
model's code, or where the state is spread over several processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from keeltune.utils.sharded_tensors import like, local

MOMENTS = {"adafactor": 0.1, "8bit": 0.5, "4bit": 0.25, "sgd": 1.0, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0}
"""Numbers that an optimizer keeps of each weight, by a part of its name; the others are Adam's kind and keep two."""


def moments_of(optim: str) -> float:
    """Numbers that the optimizer of this name, as TrainingArguments has it, keeps of each weight."""
    return next((number for part, number in MOMENTS.items() if part in optim), 2.0)


def group_numbers(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Each group's numbers: rate, weight decay, betas; also what an optimizer counts there."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def optimizer_state(
    optimizer: Optimizer, schedule: Any, model: nn.Module, begun: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`moments` by weight, the `groups` as they are and as they were `begun`, and the `schedule`'s numbers."""
    names, stored = _names(optimizer, model), optimizer.state_dict()
    return {
        "moments": {names[number]: dict(moments) for number, moments in stored["state"].items()},
        "groups": group_numbers(optimizer),
        "begun": list(begun),
        "schedule": {key: value for key, value in schedule.state_dict().items() if key != "lr_lambdas"},
    }


def load_optimizer_state(optimizer: Optimizer, schedule: Any, model: nn.Module, stored: Mapping[str, Any]) -> None:
    """Goes on from there, in an optimizer and a schedule that were just made.

    A group's number is the stored one, unless the recipe has changed what it begins with: then it is the recipe's. The
    rate of a schedule that is a function of the step is that of the stored step, by the schedule as it is now. So a
    change that a user asks for takes effect, and without one all is the same to the bit.

    Raises ValueError where the moments or the groups are those of other weights.
    """
    names, fresh = _names(optimizer, model), optimizer.state_dict()
    if unknown := sorted({*stored["moments"]} - {*names}):
        raise ValueError(f"moments of {len(unknown)} weights that do not train ({unknown[0]}, …)")
    groups = [
        {**now, **{key: then for key, then in held.items() if key not in begun or begun[key] == _plain(now.get(key))}}
        for now, held, begun in zip(fresh["param_groups"], stored["groups"], stored["begun"], strict=True)
    ]
    weights, held = dict(model.named_parameters()), stored["moments"]
    moments = {number: _like(weights[name], held[name]) for number, name in enumerate(names) if name in held}
    bases = [group["initial_lr"] for group in fresh["param_groups"] if "initial_lr" in group]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if not isinstance(schedule, LambdaLR):
        schedule.load_state_dict(dict(stored["schedule"]))
        return
    factors = [factor(stored["schedule"]["last_epoch"]) for factor in schedule.lr_lambdas]
    rates = [base * factor for base, factor in zip(bases, factors, strict=True)]
    kept = {key: stored["schedule"][key] for key in ("last_epoch", "_step_count")}
    schedule.load_state_dict({**kept, "_last_lr": rates, "lr_lambdas": [None] * len(rates)})
    for group, base, rate in zip(optimizer.param_groups, bases, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate


def _like(weight: Tensor, moments: Mapping[str, Any]) -> dict[str, Any]:
    """A weight's moments, sharded as it is: those that have its shape."""
    shape = local(weight).shape
    return {key: like(weight, value) if isinstance(value, Tensor) and value.shape == shape and shape else value
            for key, value in moments.items()}  # fmt: skip


def _names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """The names of an optimizer's weights, in its own order."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]


def _plain(value: Any) -> Any:
    """As a file gives it back: pairs as lists."""
    return list(value) if isinstance(value, tuple) else value
