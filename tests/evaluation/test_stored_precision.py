"""A finished model is stored in its source's half precision, unless rounding to it would take what was learnt."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from keeltune.evaluation.stored_precision import lost_by_rounding
from tests.helpers.models import word_tokenizer
from tests.helpers.runs import make_data, spec_of, train


def test_the_share_that_rounding_takes_is_that_of_float64():
    """1 where each step is below half of the spacing, 0 where each end is a number of the precision itself."""
    start = {"w": torch.tensor([1.0, 2.0, -4.0]), "still": torch.tensor([3.0]), "ids": torch.tensor([1, 2])}
    lost = {
        small: lost_by_rounding(start | {"w": start["w"] * (1 + small)}, start, torch.bfloat16)
        for small in (2.0**-10, 2.0**-7, 0.003)
    }
    assert lost[2.0**-10] == pytest.approx(1.0)
    assert lost[2.0**-7] == 0.0
    end = start["w"].double() * 1.003
    by_hand = ((end.to(torch.bfloat16).double() - end) ** 2).sum() / ((end - start["w"].double()) ** 2).sum()
    assert lost[0.003] == pytest.approx(by_hand.item(), rel=1e-4)
    assert lost_by_rounding(start, start, torch.bfloat16) == 0.0
    assert lost_by_rounding({"w": start["w"] + 1e-4}, start, torch.bfloat16, without=["w"]) == 0.0


@pytest.fixture
def half(tiny, tmp_path):
    """A project whose model is stored in bfloat16."""
    make_data(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    word_tokenizer().save_pretrained(tmp_path / "half")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "rate", "stored"),
    [("auto", 1e-5, "float32"), ("auto", 0.3, "bfloat16"), ("source", 1e-5, "bfloat16"), ("fp32", 0.3, "float32")],
)
def test_few_small_steps_are_stored_in_float32(half, asked, rate, stored):
    """Three steps of 1e-5 are less than bfloat16 can tell; three of 0.3 are not. What is stored is what was scored."""
    training = {"epochs": 1, "batch_size": 8, "learning_rate": rate, "precision": "fp32", "save_dtype": asked}
    run = train(spec_of("fine-tuning", half / "half", training=training), half)
    end = load_file(run.model / "model.safetensors")
    assert {str(weight.dtype).removeprefix("torch.") for weight in end.values()} == {stored}
    told = run.result["training"]["stored"]
    assert told["dtype"] == stored
    start = {name: weight.float() for name, weight in load_file(half / "half" / "model.safetensors").items()}
    same = sum((end[name].float() == start[name]).sum().item() for name in end) / sum(w.numel() for w in end.values())
    if rate == 1e-5:
        assert (same > 0.8) == (stored == "bfloat16")
        assert told["lost"] > 0.7  # biases begin at 0, where bfloat16 is fine
    elif asked == "auto":
        assert told["lost"] < 0.02
        assert same < 0.5
