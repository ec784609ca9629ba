"""Weights in shards: two processes that hold a part each of everything end where one that holds it all ends.

SGD, whose steps show a factor that Adam hides, to 1e-6 of the way; AdamW, which makes rounding of small gradients grow,
to 1e-4. A finished run proves nothing: the stock Trainer makes plain DDP of FSDP on CPUs, so each step is looked at.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from keeltune import recipe
from keeltune.runs import run
from keeltune.tasks.common import lm_head
from keeltune.training import sharding
from keeltune.training.checkpoint_averaging import MeanWeights, put_back
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import distributed, sharded_tensors
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import processes, runs, wide, writers

QUIET = Display(quiet=True)
SGD = {"optim": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05, "max_grad_norm": 0.1}
FSDP: dict[str, Any] = {"fsdp": {}}


def without_dropout(folder: Path) -> Path:
    """Masks differ with the batch; everything else must not."""
    config = json.loads((folder / "config.json").read_text())
    dropped = {name: 0.0 for name, value in config.items() if "drop" in name and isinstance(value, float)}
    (folder / "config.json").write_text(json.dumps(config | dropped))
    return folder


def classifying(folder: Path, method: str, **changes: Any) -> dict[str, Any]:
    """A recipe of a tiny BERT, with steps of eight rows in two micro-batches."""
    spec = runs.spec_of(method, folder / "student")
    spec["training"] |= {"batch_size": 2, "gradient_accumulation_steps": 2, "epochs": 2, "attention": "eager"}
    spec["evaluation"] = {"every": 3}
    spec["data"] |= {"unlabeled": "pool.jsonl"} if method == "distillation" else {}
    if method != "fine-tuning":
        spec["reference"] = {"from": "online"}
    if method == "distillation":
        spec["reference"]["model"] = str(folder / "teacher")
    return merged(spec, changes)


def writing(folder: Path, architecture: str, method: str, **changes: Any) -> dict[str, Any]:
    (place := folder / architecture).mkdir(exist_ok=True)
    spec = writers.spec(place, "translation", architecture, method)
    for model in ("student", "teacher"):
        without_dropout(place / model)
    spec |= {"model": f"{architecture}/student", "data": {k: f"{architecture}/{v}" for k, v in spec["data"].items()}}
    spec["training"] |= {"batch_size": 2, "epochs": 2, "learning_rate": 1e-3}
    spec["data"].pop("test")
    spec["evaluation"] = {"every": 4}
    if method != "fine-tuning":
        spec["reference"] = {"from": "online"}
    if method == "distillation":
        spec["reference"]["model"] = f"{architecture}/teacher"
    return merged(spec, changes)


def merged(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for name, value in changes.items():
        spec[name] = merged(dict(spec.get(name) or {}), value) if isinstance(value, dict) else value
    return spec


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """Rows, and the models of `classifying`."""
    runs.make_data(tmp_path)
    for name, seed in (("student", 0), ("teacher", 5)):
        copy = tmp_path / name
        copy.mkdir()
        for file in tiny("bert", seed=seed).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        without_dropout(copy)
    return tmp_path


def train(spec: dict[str, Any], folder: Path, output: str) -> Path:
    large = lm_head.LARGE
    lm_head.LARGE = 0 if spec["task"] == "translation" else large  # tiny heads are applied in slices too
    try:
        return run.train(recipe.from_dict({**spec, "output": output}, folder), display=QUIET).folder
    finally:
        lm_head.LARGE = large


def train_as_rank(cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """A process of a group: trains each recipe, its weights in shards, and notes what it holds of them in each step."""
    from torch.distributed.tensor import DTensor

    held: dict[str, list[str]] = {}
    original, name = KeelTrainer.training_step, ""

    def noting(self: KeelTrainer, model: Any, *args: Any) -> Any:
        references = getattr(self.step_loss.reference, "members", [self.step_loss.reference])
        models = {f"reference {i}": r.model for i, r in enumerate(references) if hasattr(r, "model")}
        models["student"] = model
        for what, module in models.items():
            for path, weight in module.named_parameters():
                part = isinstance(weight, DTensor) and len(weight.to_local()) <= (len(weight) + 1) // 2
                if not part and (
                    what == "student" or re.search(r"\.\d+\.", path)
                ):  # a reference's outer weights stay whole
                    held.setdefault(name, []).append(f"{what}.{path}")
        held.setdefault(name, [])
        return original(self, model, *args)

    KeelTrainer.training_step = noting
    for name, spec in cases.items():
        shared = {"distributed": spec["training"].get("distributed", FSDP)}
        train(merged(json.loads(json.dumps(spec)), {"training": shared}), folder, f"{name}-two")
    assert held.keys() == cases.keys()
    assert not any(held.values()), held
    distributed.leave_group()


def assert_two_are_one(cases: dict[str, dict[str, Any]], folder: Path) -> None:
    done = processes.ranks(train_as_rank, cases, folder, folder=folder)
    assert [one.process.exitcode for one in done] == [0, 0], "\n".join(one.text[-3000:] for one in done)
    for name, spec in cases.items():
        alone = json.loads(json.dumps(spec))
        alone["training"].pop("distributed", None)
        alone["training"]["batch_size"] *= 2
        one, two = train(alone, folder, f"{name}-one"), folder / f"{name}-two"
        end, other = (load_file(place / "model" / "model.safetensors") for place in (one, two))
        start = load_file(folder / spec["model"] / "model.safetensors")
        assert end.keys() == other.keys() and {w.dtype for w in other.values()} == {w.dtype for w in end.values()}
        moved = max(float((end[key] - start[key]).abs().max()) for key in end if key in start)
        apart = max(float((end[key] - other[key]).abs().max()) for key in end)
        assert moved > 1e-3, name
        assert apart < (1e-6 if spec["training"].get("optim") == "sgd" else 1e-4) * moved + 1e-7, (name, apart, moved)
        first, second = (json.loads((place / "result.json").read_text()) for place in (one, two))
        for part in ("objective", "metrics"):
            assert_close(first[part], second[part], f"{name}.{part}")
        losses = [[json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()] for place in (one, two)]
        for a, b in zip(*losses, strict=True):
            assert_close({k: a[k] for k in a if "loss" in k or k == "grad_norm"}, b, name)


def assert_close(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        for key, value in one.items():
            assert_close(value, other[key], f"{where}.{key}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-5, abs=2e-6), where
    else:
        assert one == other, where


def test_two_processes_with_a_part_each_are_one(folder):
    """Student and teacher, accumulation, a clipped gradient, evaluations, checkpoints and the choice of the best."""
    assert_two_are_one({"sgd": classifying(folder, "distillation", training={**SGD, "save_steps": 3})}, folder)


WAYS = ("tied, in slices, checkpointed", "an encoder-decoder, offloaded", "adapters", "its start", "pairs of weights",
        "several teachers", "a cache", "two passes", "layers")  # fmt: skip


def way(name: str, folder: Path) -> dict[str, Any]:
    """A recipe of each way to train, with a reference where there can be one."""
    offloaded = {"fsdp": {"reshard_after_forward": False, "cpu_offload": True}}
    adapters = {**SGD, "learning_rate": 0.5, "head_learning_rate": 0.5, "lora": {"rank": 4}}
    kept = {"weight_average": 0.5, "label_smoothing": 0.1, "freeze_embeddings": True, "layer_decay": 0.9}
    teachers = [str(folder / "teacher"), str(folder / "student")]
    matching = {"hidden-states": 1.0, "attention": 1.0}
    if name == "tied, in slices, checkpointed":
        return writing(folder, "gpt2", "distillation", training={**SGD, "gradient_checkpointing": True})
    if name == "an encoder-decoder, offloaded":
        return writing(folder, "t5", "distillation", training={"distributed": offloaded})
    if name == "adapters":
        return writing(folder, "llama", "cross-domain", reference={"from": "auto"}, training=adapters)
    if name == "its start":
        return classifying(folder, "cross-domain", training={"regularizers": kept})
    if name == "pairs of weights":
        return classifying(folder, "fine-tuning", training={"epochs": 3}, evaluation={"every": 1})
    if name == "several teachers":
        return classifying(folder, "distillation", reference={"model": teachers})
    if name == "a cache":
        return classifying(folder, "distillation", reference={"from": "cached"})
    if name == "two passes":
        return classifying(folder, "fine-tuning", training={"regularizers": {"fgm": 0.1}})
    return classifying(folder, "distillation", objective={"matching": matching}, training=SGD)


@pytest.mark.slow  # two processes that train
@pytest.mark.parametrize("name", wide.all_but(WAYS, WAYS[:4]))
def test_every_method_and_way_is_one(folder, name):
    assert_two_are_one({name: way(name, folder)}, folder)


REFUSED = [
    ({"objective": {"weight": {"max_kl": 0.05}}}, "objective.weight"),
    ({"training": {"l2_sp": 0.1}}, "training.l2_sp"),
    ({"training": {"lora": {"base": "4bit"}}}, "training.lora.base"),
    ({"training": {"optim": "adafactor"}}, "training.optim"),
    ({"training": {"torch_compile": True}}, "training.torch_compile"),
    ({"training": {"regularizers": {"my_package.module:Own": 1}}}, "training.regularizers.my_package.module:Own"),
]


@pytest.mark.parametrize(("changes", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_what_parts_cannot_serve_is_refused(tmp_path, changes, field):
    spec = merged(runs.spec_of("distillation", tmp_path, reference=str(tmp_path)), {"training": {"distributed": FSDP}})
    with pytest.raises(UserError) as caught:
        recipe.from_dict(merged(spec, changes), tmp_path)
    (problem,) = caught.value.problems
    assert problem.field == field and "training.distributed" in f"{problem.expected} {problem.fix}"


def test_one_process_has_nothing_to_share(folder):
    spec = classifying(folder, "fine-tuning", training={"distributed": FSDP})
    with pytest.raises(UserError, match="torchrun --nproc_per_node"):
        train(spec, folder, "alone")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


class Stack(nn.Module):
    """Two layers, one that shares a weight with the head, and a list within a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer(), Layer()])
        self.groups = nn.ModuleList([nn.ModuleList([Layer()])])
        self.head = nn.Linear(2, 2)
        self.head.weight = self.layers[2].linear.weight


def test_layers_are_units_but_for_those_that_share_a_weight():
    model = Stack()
    assert list(sharding.layers_of(model)) == [model.layers[0], model.layers[1], model.groups[0][0]]


def test_a_skeleton_holds_no_number_and_keeps_ties():
    model = Stack()
    model.head.weight.requires_grad_(False)
    skeleton = sharding.skeleton_of(model)
    assert all(weight.is_meta for weight in skeleton.parameters())
    assert skeleton.head.weight is skeleton.layers[2].linear.weight
    assert [w.requires_grad for w in skeleton.parameters()] == [w.requires_grad for w in model.parameters()]
    sharding._put(skeleton, {name: weight.detach() for name, weight in model.named_parameters()})
    assert skeleton.head.weight is skeleton.layers[2].linear.weight
    assert all(a.equal(b) for a, b in zip(skeleton.parameters(), model.parameters(), strict=True))


def test_whole_tensors_are_their_own_part(tmp_path):
    weight, model = nn.Parameter(torch.ones(3)), nn.Linear(2, 2)
    assert sharded_tensors.local(weight) is weight and sharded_tensors.whole(weight) is weight
    assert sharded_tensors.like(weight, torch.zeros(3)).equal(torch.zeros(3))
    assert sharded_tensors.gathered_tensors({"a": weight}) == {"a": weight}
    assert not sharded_tensors.is_sharded(model)
    mean = MeanWeights(model)
    mean.move(1.0)
    before = model.weight.data
    with put_back(model):
        mean.use()
        assert model.weight.data is not before
    assert model.weight.data.data_ptr() == before.data_ptr()
