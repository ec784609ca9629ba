"""Weights, gradients and moments in shards: each process holds a part of every weight (FSDP2, torch's `fully_shard`).

    a layer of the student, or of a reference       gathered for its forward and its backward pass, then let go of
    embeddings, last norm, head                     gathered at the start of a forward pass, whole until the step's end
    gradients                                       summed into parts as the backward pass makes them
    moments                                         of the part alone

A layer is a member of one of the model's lists of modules. What lies outside of these lists is one unit with the model
itself, which is not let go of between the passes: a head that is applied slice by slice behind the forward pass
(`objective/head_gradient.py`), and a table that is tied to it, are whole there. Names of weights stay what they are.

The Trainer's own way is not taken: accelerate makes plain DDP of FSDP on CPUs, without a word, so that no test on CPUs
would see a shard (docs/decisions/0050).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from keeltune.recipe.training_fields import Fsdp
from keeltune.tasks.common.batches import to_device
from keeltune.training.build import collated
from keeltune.training.job import Job
from keeltune.utils.distributed import process_group
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.sharded_tensors import whole

PROBED = 4
"""Examples by which it is found out whether rows may share a forward pass."""


@dataclass
class Shards:
    """A job whose models are sharded, and the student's modules without weights, into which it is gathered again."""

    job: Job
    skeleton: Any

    def gather(self) -> Any:
        """The student, whole and in every process, as `job.model`; the reference's models are let go of.

        All processes must call it. One weight at a time: none is held twice.
        """
        job, sharded = self.job, self.job.model
        with torch.no_grad():
            weights = {name: whole(weight).to(job.device) for name, weight in sharded.named_parameters()}
        _put(self.skeleton, weights)
        for name, buffer in sharded.named_buffers():
            owner, _, own = name.rpartition(".")
            self.skeleton.get_submodule(owner)._buffers[own] = buffer
        self.skeleton.train(sharded.training)
        base = self.skeleton if job.student.model is sharded else self.skeleton.get_base_model()
        job.model, job.student = self.skeleton, replace(job.student, model=base)
        job.live_reference.drop()
        return job.model


def shard(job: Job) -> Shards | None:
    """Shards a job's student and the models of its reference, where the recipe asks for it.

    Raises UserError where there are no other processes, or the model cannot be sharded.
    """
    distributed = job.material.recipe.training.distributed
    if distributed is None or distributed.fsdp is None:
        return None
    if process_group() is None:
        fix = "start it with torchrun --nproc_per_node N -m keeltune train, or leave training.distributed out"
        raise _refusal(job, "one process", "several processes, each of which holds a part", fix)
    _require_one_pass(job)
    mesh = _mesh(job, distributed.fsdp)
    if job.matching is not None:
        job.matching.detach(job.model)
    skeleton = skeleton_of(job.model)
    if job.matching is not None:  # its projections train in shards, and are no part of what is gathered
        job.matching.attach(job.model)
    fully_sharded(job.model, distributed.fsdp, mesh, job)
    for reference in job.live_reference.loaded:
        once = Fsdp(cpu_offload=distributed.fsdp.cpu_offload)  # it has no backward pass to keep a layer for
        fully_sharded(reference.model, once, mesh, job)
    job.model._is_accelerate_prepared = True  # or it would be wrapped in DDP
    return Shards(job, skeleton)


def _mesh(job: Job, options: Fsdp) -> Any:
    """The processes in one row; where parts lie in the machine's memory, on a GPU too, they are summed there."""
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

    group, kind = process_group(), job.device.split(":")[0]
    if not options.cpu_offload:
        return init_device_mesh(kind, (group.get_world_size(),))
    both = "cpu:gloo,cuda:nccl" if kind == "cuda" else "cpu:gloo"
    return DeviceMesh.from_group(group.new_group(backend=both), kind)


def fully_sharded(model: Any, options: Fsdp, mesh: Any, job: Job) -> None:
    """Shards a model in place: each of its layers a unit, the rest one with the model itself."""
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if options.cpu_offload else OffloadPolicy()
    scalar = next((name for name, weight in model.named_parameters() if weight.dim() == 0), None)
    if scalar is not None:
        found = f"{type(model).__name__}, whose weight {scalar} is a single number"
        raise _refusal(job, found, "weights that have rows", "leave training.distributed out")
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=options.reshard_after_forward, offload_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, offload_policy=policy)


def layers_of(model: nn.Module) -> Iterator[nn.Module]:
    """The members of a model's outermost lists of modules, but for those that share a weight with something else."""
    everywhere = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))

    def members(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield child
            else:  # a list in a list has no forward pass of its own
                yield from members(child)

    for layer in members(model):
        own = Counter(id(weight) for _, weight in layer.named_parameters(remove_duplicate=False))
        if own and all(everywhere[weight] == count for weight, count in own.items()):
            yield layer


def skeleton_of(model: nn.Module) -> Any:
    """The same modules without the weights' numbers: their shapes, and which of them are one."""
    held = {id(w): nn.Parameter(torch.empty_like(w, device="meta"), w.requires_grad) for w in model.parameters()}
    return copy.deepcopy(model, dict[int, Any](held))


def _put(skeleton: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Gives a skeleton weights by their names; those that are one there stay one."""
    new = {id(empty): nn.Parameter(weights[name], empty.requires_grad) for name, empty in skeleton.named_parameters()}
    for module in skeleton.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = new[id(weight)]


def _require_one_pass(job: Job) -> None:
    """UserError where rows run apart: a layer is gathered by all processes at once, and each would ask for it as often
    as its own rows have lengths."""
    task = job.material.task
    batch = to_device(collated(job, list(job.material.main_stream[:PROBED])), job.device)
    if "shapes" in batch and task.padding_effect.sharing(job.model, batch) != "any":
        found = f"{type(job.model).__name__}, whose rows do not share a forward pass (what it says depends on padding)"
        raise _refusal(job, found, "a model whose rows do", "leave training.distributed out, or take another model")


def _refusal(job: Job, found: str, expected: str, fix: str) -> UserError:
    where = job.material.recipe.where("training.distributed")
    return UserError(Problem(where, "training.distributed", found, expected, fix))
