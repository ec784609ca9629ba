"""An adapter's folder stands for the model that it makes of its base, wherever a model is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import keeltune as kt
from keeltune.models import configuration, loading, model_files
from keeltune.utils.errors import UserError
from tests.helpers.models import save_tiny

HEAD = "AutoModelForSequenceClassification"
LABELS = ["negative", "positive"]
TEXTS = ["the film is good", "a very long and dull plot"]


def adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """A LoRA adapter of `base` with random weights and a head of its own, and the model that it makes."""
    model = AutoModelForSequenceClassification.from_pretrained(base)
    spec = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"], **settings)
    adapted = get_peft_model(model, spec)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    adapted.save_pretrained(folder)
    return adapted.eval()


@torch.no_grad()
def logits(model: Any, words: Any) -> torch.Tensor:
    return torch.cat([model.eval()(**words(text, return_tensors="pt")).logits for text in TEXTS])


def opened(folder: Path) -> loading.Loaded:
    """What `check` and then training do with a folder."""
    with loading.quiet_transformers():
        source = model_files.locate(str(folder), Path, "r.yaml:3", "model")
        loading.check_weights(source, configuration.read_config(source, "r", "model"), HEAD, "r", "model")
        return loading.load(source, HEAD, loading.Head(LABELS), where="r", field="model")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize("named", ["absolute", "beside", "within the adapter's folder"])
def test_an_adapter_is_merged_into_its_base(base, tmp_path, named):
    model = adapter(base, tmp_path / "adapter")
    settings = tmp_path / "adapter" / "adapter_config.json"
    if named != "absolute":
        home = tmp_path / "moved" if named == "beside" else tmp_path / "adapter" / "moved"
        shutil.copytree(base, home)
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "moved"}))
    loaded = opened(tmp_path / "adapter")
    words = AutoTokenizer.from_pretrained(base)
    torch.testing.assert_close(logits(loaded.model, words), logits(model, words), rtol=1e-5, atol=1e-6)
    assert loaded.fresh == ()
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert any("is merged into" in note for note in loaded.notes)
    other = model_files.fingerprint(str(tmp_path / "adapter"))
    assert other != model_files.fingerprint(str(base))


def test_an_adapter_on_an_adapter_is_merged_after_it(base, tmp_path):
    adapter(base, tmp_path / "first")
    merged = opened(tmp_path / "first").model
    merged.save_pretrained(tmp_path / "whole")
    second = adapter(tmp_path / "whole", tmp_path / "second")
    settings = tmp_path / "second" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "first"}))
    words = AutoTokenizer.from_pretrained(base)
    found = opened(tmp_path / "second").model
    torch.testing.assert_close(logits(found, words), logits(second, words), rtol=1e-5, atol=1e-6)


def change(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


FAULTS = {
    "no base there": (lambda f: change(f, base_model_name_or_path="/nowhere/model"), "/nowhere/model.* is not there"),
    "no base named": (lambda f: change(f, base_model_name_or_path=None), "is not there"),
    "itself": (lambda f: change(f, base_model_name_or_path=str(f)), "a circle of them"),
    "a base of another size": (lambda f: change(f, base_model_name_or_path=str(f.parent / "wide")), "is no adapter of"),
    "another rank": (lambda f: change(f, r=5), "weights of another shape"),
    "other modules": (lambda f: change(f, target_modules=["key"]), "which this model lacks"),
    "no such modules": (lambda f: change(f, target_modules=["nowhere"]), "No modules were targeted"),
    "prompts": (lambda f: change(f, peft_type="PROMPT_TUNING"), "PROMPT_TUNING"),
    "code": (lambda f: change(f, megatron_config={"a": 1}), "code of its own"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"12"), "no safetensors header"),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_adapter_that_makes_no_model_is_refused_by_check(base, tmp_path, name):
    adapter(base, tmp_path / "adapter")
    if "size" in name:
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig.from_pretrained(base)
        config.hidden_size, config.intermediate_size = 48, 64
        BertForSequenceClassification(config).save_pretrained(tmp_path / "wide")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "wide")
    spoil, message = FAULTS[name]
    spoil(tmp_path / "adapter")
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "adapter")


def test_a_runs_adapter_is_evaluated_taught_from_and_trained_on_as_its_model(base, tmp_path):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS * 4, LABELS * 4, strict=True)]
    rows = [{**row, "text": f"{row['text']} {'very ' * n}"} for n, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "task": "text-classification", "method": "fine-tuning", "model": str(base), "output": "out",
        "data": {"train": "rows.jsonl", "test": "rows.jsonl"},
        "training": {"max_steps": 2, "batch_size": 4, "precision": "fp32", "learning_rate": 1e-2, "lora": {"rank": 2}},
    }  # fmt: skip
    kt.train(kt.recipe.from_dict(spec, tmp_path))
    file = str(tmp_path / "rows.jsonl")
    alone = kt.predict(tmp_path / "out" / "adapter", file, task="text-classification")
    whole = kt.predict(tmp_path / "out" / "model", file, task="text-classification")
    assert [row["prediction"] for row in alone] == [row["prediction"] for row in whole]
    for mine, other in zip(alone, whole, strict=True):
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    more = {"method": "distillation", "model": "out/adapter", "reference": "out/adapter", "output": "again"}
    run = kt.train(kt.recipe.from_dict({**spec, **more, "objective": {"weight": 1.0}}, tmp_path))
    assert (
        run.result["metrics"]["before"]["test"]["accuracy"]
        == kt.evaluate(tmp_path / "out" / "adapter", file, task="text-classification")["metrics"]["accuracy"]
    )
    again = kt.predict(tmp_path / "again" / "adapter", file, task="text-classification")
    whole = kt.predict(tmp_path / "again", file)
    for mine, other in zip(again, whole, strict=True):
        assert mine["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
