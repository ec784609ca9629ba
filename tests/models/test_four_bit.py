"""A base in four bits: refused where it cannot be, asked for as bitsandbytes wants it, and out of it at the end.

No GPU is here: what stands in for the library's loader holds the same weights in bfloat16, so that a run must be, in
every number, that of `base: bf16`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.models import four_bit, loading, shared_weights
from keeltune.models.loading import skeleton
from keeltune.training.preparation import encoding
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import families, models
from tests.helpers.interruption import same

QUIET = Display(quiet=True)


def four_bit_spec(folder: Any, task: str = "text-generation", architecture: str = "llama") -> dict[str, Any]:
    spec = families.spec(folder, task, architecture, "cross-domain") | {"output": "out"}
    spec["training"] |= {"lora": {"rank": 2, "base": "4bit"}, "max_steps": 2}
    return spec


def test_without_a_gpu_or_the_library_it_is_refused_before_a_weight_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load", None)
    found = r"(?s)training\.lora\.base\n +found: +4bit, and bitsandbytes is not installed and no GPU \(CUDA\) is here"
    with pytest.raises(UserError, match=rf"{found}.*pip install 'keeltune\[4bit\]' and write base: bf16"):
        prepare(recipe.from_dict(four_bit_spec(tmp_path), tmp_path))
    monkeypatch.setattr(four_bit, "installed", lambda module: True)
    with pytest.raises(UserError, match=r"(?s)4bit, and no GPU \(CUDA\) is here.*fix: +write base: bf16"):
        prepare(recipe.from_dict(four_bit_spec(tmp_path), tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert four_bit.four_bit_problem("") is None


def test_what_trains_whole_is_not_quantised():
    shape = skeleton(models.tiny_config("bert", ["a", "b"]), "AutoModelForSequenceClassification")
    asked = four_bit.quantization(shape)
    assert {"classifier", "pooler", "lm_head"} <= set(asked.llm_int8_skip_modules)
    assert not {"bert", "encoder"} & set(asked.llm_int8_skip_modules)


@pytest.mark.parametrize(("task", "architecture"), [("text-generation", "llama"), ("text-classification", "bert")])
def test_the_loader_is_asked_and_the_end_is_the_adapter_on_what_four_bits_stand_for(
    tmp_path, monkeypatch, task, architecture
):
    monkeypatch.setattr(encoding, "four_bit_problem", lambda where: None)
    auto = {"text-generation": "CausalLM", "text-classification": "SequenceClassification"}[task]
    loader = getattr(transformers, f"AutoModelFor{auto}")
    original, asked = loader.from_pretrained, []

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if "quantization_config" in kwargs:
            asked.append(SimpleNamespace(**{n: kwargs.pop(n) for n in ("quantization_config", "device_map")}))
        return original(*args, **kwargs)

    monkeypatch.setattr(loader, "from_pretrained", stand_in)
    spec, runs = four_bit_spec(tmp_path, task, architecture), []
    for base in ("4bit", "bf16"):
        spec["training"]["lora"]["base"] = base
        runs.append(kt.train(recipe.from_dict({**spec, "output": base}, tmp_path), display=QUIET))
        assert len(asked) >= 1
    settings = asked[0].quantization_config
    assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4" and settings.bnb_4bit_use_double_quant
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert same(runs[0].folder, runs[1].folder)
    assert runs[0].result["metrics"] == runs[1].result["metrics"]


def test_a_weight_with_a_state_stands_for_other_numbers(monkeypatch):
    import sys

    weight = torch.nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state = "its scales"
    numbers = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    library = SimpleNamespace(dequantize_4bit=lambda data, state: numbers if state == "its scales" else None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(functional=library))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", library)
    assert torch.equal(four_bit.in_full(weight), numbers.float())
    assert four_bit.in_full(numbers).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"from": "student", "layers": 1}}, r"(?s)training\.lora\.base.*only a whole model"),
        ({"training": {"load_in_4bit": True}}, r"use training\.lora\.base"),
    ],
)
def test_a_recipe_says_what_goes_together(tmp_path, changes, message):
    spec = four_bit_spec(tmp_path)
    spec["training"] |= changes.pop("training", {})
    with pytest.raises(UserError, match=message):
        recipe.from_dict(spec | changes | {"method": "fine-tuning"}, tmp_path)


def test_a_quantised_weight_is_shared_as_it_is_where_its_scales_are_equal_too():
    class Quantised(torch.nn.Parameter):
        pass

    def held(scale: float) -> torch.nn.Module:
        module = torch.nn.Module()
        module.weight = Quantised(torch.tensor([1, 2], dtype=torch.uint8), requires_grad=False)
        module.weight.quant_state = SimpleNamespace(absmax=torch.tensor([scale]))
        return module

    first, second, other = held(1.0), held(1.0), held(2.0)
    assert shared_weights.share(second, first) == 2 and second.weight is first.weight
    assert shared_weights.share(other, first) == 0 and other.weight is not first.weight
    assert shared_weights.copy_of(first).weight is first.weight
