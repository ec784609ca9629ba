"""What a reference's weights are held in, and what of them is the student's own: equal answers, for less memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.models import shared_weights
from keeltune.objective.references.model import Model
from keeltune.tasks.common.batches import to_device
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import families

QUIET = Display(quiet=True)
KINDS = [
    ("text-classification", "bert", "SequenceClassification", ["query", "value"], ["classifier"]),
    ("text-generation", "llama", "CausalLM", ["q_proj", "down_proj"], None),
    ("summarization", "t5", "Seq2SeqLM", ["q", "wo"], None),
]
BY_NAME = pytest.mark.parametrize(("task", "architecture", "auto", "modules", "whole"), KINDS)


def teach(folder: Path, auto: str, modules: list[str], whole: list[str] | None) -> None:
    """A LoRA adapter of random weights on the student's folder."""
    base = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(folder / "student")
    spec = peft.LoraConfig(r=2, target_modules=modules, modules_to_save=whole)
    adapted = peft.get_peft_model(base, spec)
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            weight.data.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    adapted.save_pretrained(folder / "adapter")


def adapter_spec(folder: Path, task: str, architecture: str, *of: Any, **lora: Any) -> dict[str, Any]:
    """A distillation from the adapter into another one on the same base."""
    spec = families.spec(folder, task, architecture, "cross-domain") | {"method": "distillation", "output": "out"}
    teach(folder, *of)
    spec["training"] |= {"lora": {"rank": 2, **lora}, "max_steps": 2}
    return {**spec, "reference": {"model": "adapter", "from": "online"}, "objective": {"weight": 0.5}}


def job_of(spec: dict[str, Any], folder: Path) -> Job:
    return build.build(prepare(recipe.from_dict(spec, folder)))


def answers(job: Job, reference: Any = None) -> torch.Tensor:
    batch = to_device(build.collated(job, job.plan.micro_batch(0, 0, 0)), "cpu")
    return (reference or job.reference).rows(batch).log_probs(slice(None)).detach()


def size(*models: torch.nn.Module) -> int:
    """The bytes of some models' weights, each storage once."""
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for m in models for w in m.parameters()}
    return sum(storages.values())


@BY_NAME
@pytest.mark.parametrize("held", ["fp32", "bf16"])
def test_an_adapter_on_the_students_base_holds_no_base_of_its_own(
    tmp_path, task, architecture, auto, modules, whole, held
):
    spec = adapter_spec(tmp_path, task, architecture, auto, modules, whole, base=held)
    job = job_of(spec, tmp_path)
    assert isinstance(job.reference, Model)
    theirs, mine = job.reference.model, job.model
    adapters = sum(w.numel() * w.element_size() for n, w in theirs.named_parameters() if "lora_" in n)
    adapters += sum(w.numel() * w.element_size() for n, w in theirs.named_parameters() if "modules_to_save" in n)
    assert size(mine, theirs) == size(mine) + adapters
    assert not any(weight.requires_grad for weight in theirs.parameters())
    separate = {**spec, "training": {k: v for k, v in spec["training"].items() if k != "lora"}}
    alone = job_of({**separate, "reference": {**spec["reference"], "held": held}}, tmp_path)
    assert size(alone.model, alone.reference.model) == size(alone.model) + size(alone.reference.model)
    tolerance = 1e-5 if held == "fp32" else 0.05
    torch.testing.assert_close(answers(job), answers(alone), rtol=tolerance, atol=tolerance)
    moved = answers(job, Model(job.student.model, job.reference.to_rows, forward=job.reference.forward))
    assert (answers(job) - moved).abs().max() > 0.05  # it is not the student itself


@pytest.mark.parametrize("held", ["fp32", "bf16"])
def test_a_run_ends_with_its_reference_as_it_was(tmp_path, monkeypatch, held):
    """The student's adapter is merged into its base, on which the reference lay until then."""
    task, architecture, *of = KINDS[1]
    spec = adapter_spec(tmp_path, task, architecture, *of, base=held)
    original, jobs, before = build.build, [], []

    def noted(*args: Any, **kwargs: Any) -> Job:
        jobs.append(original(*args, **kwargs))
        before.append(answers(jobs[0]))
        return jobs[0]

    monkeypatch.setattr(build, "build", noted)
    run = kt.train(recipe.from_dict(spec, tmp_path), display=QUIET)
    assert run.result["status"] == "completed"
    assert torch.equal(answers(jobs[0]), before[0])
    assert run.result["reference"]["models"] == ["../adapter"]


def test_the_students_start_is_held_once_where_only_adapters_train(tmp_path):
    task, architecture, *_ = KINDS[0]
    spec = families.spec(tmp_path, task, architecture, "cross-domain") | {"output": "out"}
    spec["reference"] = {"from": "online"}
    whole = job_of(spec, tmp_path)
    assert size(whole.model, whole.reference.model) == 2 * size(whole.model)
    spec["training"] |= {"lora": {"rank": 2}}
    job = job_of(spec, tmp_path)
    assert size(job.model, job.reference.model) == size(job.model)
    torch.testing.assert_close(answers(job), answers(whole), rtol=1e-6, atol=1e-6)


def test_what_is_shared_is_equal_and_stays_tied_and_is_given_back():
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head, self.other = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5), torch.nn.Linear(4, 4)
            self.head.weight = self.table.weight

    first, second = Tied(), Tied()
    second.load_state_dict(first.state_dict())
    second.other.bias.data.add_(1)
    assert shared_weights.share(second, first) == 4 * (20 + 5 + 16)
    assert second.head.weight is second.table.weight is not first.table.weight
    assert second.table.weight.data_ptr() == first.table.weight.data_ptr()
    assert second.other.bias.data_ptr() != first.other.bias.data_ptr()
    copied = shared_weights.copy_of(first)
    assert copied.head.weight is copied.table.weight and copied.other.bias.data_ptr() == first.other.bias.data_ptr()
    shared_weights.own(second, first)
    first.table.weight.data.zero_()
    assert second.head.weight is second.table.weight and second.table.weight.abs().sum() > 0
    assert not copied.table.weight.any()


@pytest.mark.parametrize("method", ["distillation", "cross-domain"])
def test_a_reference_in_bfloat16_has_half_the_memory_and_is_compared_in_float32(tmp_path, method):
    spec = families.spec(tmp_path, "text-generation", "llama", method) | {"output": "out"}
    model = {"model": spec["reference"]} if method == "distillation" else {}
    plain, half = (job_of({**spec, "reference": {**model, "from": "online", **held}}, tmp_path)
                   for held in ({}, {"held": "bf16"}))  # fmt: skip
    assert 2 * size(half.reference.model) == size(plain.reference.model) == size(half.model)
    assert {w.dtype for w in half.reference.model.parameters()} == {torch.bfloat16}
    assert {w.dtype for w in half.model.parameters()} == {torch.float32}
    assert answers(half).dtype == torch.float32
    torch.testing.assert_close(answers(half), answers(plain), rtol=0, atol=0.05)
    assert not torch.equal(answers(half), answers(plain))


def test_a_cache_of_answers_in_bfloat16_is_another_one(tmp_path):
    spec = families.spec(tmp_path, "text-classification", "bert", "distillation") | {"output": "out"}
    folders = []
    for held in ("fp32", "bf16"):
        reference = {"model": "teacher", "from": "cached", "held": held}
        run = kt.train(recipe.from_dict({**spec, "output": held, "reference": reference}, tmp_path), display=QUIET)
        folders.append(run.result["reference"]["cache"]["folder"])
        if held == "bf16":
            manifest = next((tmp_path / ".cache" / Path(folders[-1]).name).glob("manifest*.json")).read_text("utf-8")
            assert "bfloat16" in json.dumps(json.loads(manifest))
    assert folders[0] != folders[1]


@pytest.mark.parametrize(
    ("method", "reference", "lora", "message"),
    [
        ("cross-domain", {"held": "bf16"}, {}, r"training\.lora\.base"),
        ("distillation", {"from": "served", "url": "http://127.0.0.1:1", "model": "m", "held": "bf16"}, None,
         "loads no models"),
    ],
)  # fmt: skip
def test_held_is_refused_where_nothing_is_loaded_for_it(tmp_path, method, reference, lora, message):
    spec = families.spec(tmp_path, "text-classification", "bert", method) | {"output": "out", "reference": reference}
    spec["training"] |= {"lora": lora}
    with pytest.raises(UserError, match=message):
        recipe.from_dict(spec, tmp_path)
