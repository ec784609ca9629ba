"""What a training is planned to need on other machines, held against closed forms and against what small ones need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from keeltune import recipe
from keeltune.cli.plan_table import print_plan
from keeltune.models import loading
from keeltune.models.weight_files import may_lack_weights
from keeltune.objective.formula import Objective
from keeltune.runs import run
from keeltune.runs.disk_estimate import bytes_of_checkpoint
from keeltune.training import build, cluster_plan
from keeltune.training.accelerators import ACCELERATORS, planned
from keeltune.training.arguments import training_arguments
from keeltune.training.memory_estimate import held_bytes, reference_skeletons
from keeltune.training.preparation.prepare import prepare
from keeltune.training.rehearsal import LiveBytes, step_operations
from keeltune.training.step_loss import step_loss
from keeltune.training.student_skeleton import student_skeleton
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal
from tests.helpers import families

LLAMA = {"vocab_size": 500, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False}  # fmt: skip


def material_of(folder: Path, task: str, architecture: str, method: str, **changes: Any) -> Any:
    given = families.spec(folder, task, architecture, method) | changes
    return prepare(recipe.from_dict({**given, "output": "out"}, folder))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_operations_are_six_a_weight_and_token_and_attention(checkpointed):
    """6 N T of the layers, 12 S² H a layer and row of attention, 6 V H of each prediction's head; once more the layers'
    forward pass (a third) where activations are checkpointed, but for each layer's last product, which nobody asks for.
    """
    config = transformers.AutoConfig.for_model("llama", **LLAMA)
    model = loading.skeleton(config, "AutoModelForCausalLM")
    if checkpointed:
        cluster_plan._checkpoint(model)
    rows, length, predictions = 4, 20, 30
    inputs = {"input_ids": torch.zeros(rows, length, dtype=torch.long, device="meta")}
    found = step_operations(model, [], inputs, predictions, Objective())
    layers = 3 * (4 * 32 * 32 + 3 * 32 * 48)
    body = 6 * layers * rows * length + 3 * 12 * length**2 * 32 * rows
    again = body / 3 - 2 * 3 * 32 * 48 * rows * length if checkpointed else 0
    assert found == body + again + 6 * 500 * 32 * predictions


@pytest.mark.parametrize(("task", "kind"), [("text-classification", "bert"), ("text-generation", "llama")])
def test_bytes_of_one_process_are_those_of_a_real_training(tmp_path, task, kind):
    """Torch's own tensors of real steps on a CPU, in bfloat16 under autocast."""
    training = {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "bf16"}
    material = material_of(tmp_path, task, kind, "fine-tuning", training=training)
    job = build.build(material)
    arguments = training_arguments(tmp_path / "steps", material.recipe.training, batch_size=8, every=None, seed=0)
    arguments.save_strategy = "no"
    trainer = KeelTrainer(job.model, arguments, job.plan, step_loss(job))
    with LiveBytes("cpu") as live:
        trainer.train()
    measured = live.most + 4 * sum(w.numel() for w in job.model.parameters())
    one = cluster_plan.needs(material, student_skeleton(material), 1)[0]
    assert (one.way, one.checkpointed) == ("one process", False)
    assert one.total() == pytest.approx(measured, rel=0.2)


def test_what_each_way_shares(tmp_path):
    material = material_of(tmp_path, "text-generation", "llama", "distillation")
    student = student_skeleton(material)
    held = held_bytes(material, student, reference_skeletons(material, student), "bf16")
    numbers = sum(w.numel() for w in student.parameters())
    outside, layer = cluster_plan._units(student)
    plain, _, ddp, _, fsdp, checkpointed = cluster_plan.needs(material, student, 8)
    assert plain.moments == 2 * plain.gradients == 8 * numbers
    assert plain.weights == held.weights + 2 * numbers + held.averages
    assert (
        plain.reference
        == held.references
        == 4 * sum(w.numel() for w in reference_skeletons(material, None)[0].parameters())
    )
    assert ddp.gradients == 2 * plain.gradients and ddp.weights == plain.weights
    assert fsdp.moments == plain.moments / 8 and fsdp.reference == plain.reference / 8
    assert fsdp.gradients == plain.gradients / 8 + 4 * (outside + layer)
    assert fsdp.weights - checkpointed.weights == 2 * numbers - 2 * (outside + 2 * layer)
    assert plain.total() - plain.total(online=False) == plain.reference


def test_bytes_of_a_cache_and_of_a_checkpoint_are_those_that_are_written(tmp_path):
    given = families.spec(tmp_path, "text-generation", "llama", "distillation")
    given["reference"] = {"model": "teacher", "from": "cached", "form": "full", "cache": "answers"}
    given["training"] |= {"keep_checkpoints": True}
    spec = recipe.from_dict({**given, "output": "out"}, tmp_path)
    material = prepare(spec)
    run.train(spec, display=Display(quiet=True))
    cache = sum(file.stat().st_size for file in (tmp_path / "answers").rglob("*.safetensors"))
    assert cluster_plan.cache_bytes(material)["full"] == pytest.approx(cache, rel=0.2)
    saved = next((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    assert bytes_of_checkpoint(material, student_skeleton(material)) == pytest.approx(size, rel=0.2)


def test_a_plan_needs_no_weights(tmp_path, capsys):
    given = families.spec(tmp_path, "text-generation", "llama", "distillation")
    for name in ("student", "teacher"):
        (tmp_path / name / "model.safetensors").unlink()
    spec = recipe.from_dict({**given, "output": "out"}, tmp_path)
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        prepare(spec)
    with may_lack_weights():
        material = prepare(spec)
    print_plan(material, *planned("8xh100"), Terminal())
    said = capsys.readouterr().out
    assert "8 x H100, 80 GB and 989 TFLOP/s" in said
    assert said.count("FSDP2") == 4 and "checkpoint: " in said and "cache of the reference's answers, full" in said


def test_steps_take_their_operations_or_what_is_sent(tmp_path):
    material = material_of(tmp_path, "text-classification", "bert", "fine-tuning")
    done, h100 = cluster_plan.Work({(False, False): 0.4 * 989e12}, 900e9), ACCELERATORS["H100"]
    assert cluster_plan.seconds_of_step(done, material, h100, "DDP", (False, False)) == pytest.approx(2.0)  # 2 of them
    assert cluster_plan.seconds_of_step(done, material, h100, "FSDP2", (False, False)) == pytest.approx(4.0)


@pytest.mark.parametrize("text", ["8xABC", "H100", "0xH100", "8 x H100"])
def test_machines_that_nobody_knows_are_refused(text):
    with pytest.raises(UserError, match="--plan"):
        planned(text)
