"""What is tried of a model before its first step: that it reads the rows, and not the token that it is asked for."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.models import initialization
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import models, writers

QUIET = Display(quiet=True)


def spec(folder, kind: str, name: str = "student", **sizes) -> dict:
    """A text-generation by a small model of this architecture, as its configuration's default has it."""
    words = writers.tokenizer(ends=False)
    config = transformers.AutoConfig.for_model(kind, **sizes)
    initialization._fit_vocabulary(config, words, {})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(folder / name)
    words.save_pretrained(folder / name)
    writers.write(folder / "rows.jsonl", "text-generation")
    return {
        "task": "text-generation", "method": "fine-tuning", "model": name, "data": {"train": "rows.jsonl"},
        "training": {"max_steps": 1, "batch_size": 4, "precision": "fp32"}, "output": "out",
    }  # fmt: skip


def train(given: dict, folder) -> kt.Run:
    return kt.train(recipe.from_dict(given, folder), display=QUIET)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_a_bidirectional_encoder_writes_as_a_decoder(tmp_path, kind):
    """By default BERT's kind sees the whole text: so also the token that it is asked for."""
    run = train(spec(tmp_path, kind, **models.BODY), tmp_path)
    assert json.loads((run.model / "config.json").read_text())["is_decoder"] is True
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 10]])
    for folder, ahead in ((tmp_path / "student", True), (run.model, False)):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            one, other = model(ids).logits[:, :4]
        assert ((one - other).abs().max().item() > 1e-3) is ahead


def test_one_that_looks_ahead_all_the_same_is_refused(tmp_path):
    given = spec(tmp_path, "xlnet", d_model=32, n_layer=2, n_head=2, d_inner=64)
    with pytest.raises(UserError, match="changes with the tokens behind it") as caught:
        train(given, tmp_path)
    assert caught.value.exit_status == 2
    assert [p.field for p in caught.value.problems] == ["model"]


def test_a_model_that_raises_over_the_rows_is_refused_in_its_own_words(tmp_path):
    given = spec(tmp_path, "xmod", **models.BODY)
    with pytest.raises(UserError, match=r"xmod, whose forward pass fails on a row: Input language unknown") as caught:
        train(given, tmp_path)
    assert [p.field for p in caught.value.problems] == ["model"]


def test_a_reference_that_raises_is_refused_as_the_reference(tmp_path):
    given = spec(tmp_path, "bert", **models.BODY)
    spec(tmp_path, "xmod", "teacher", **models.BODY)
    with pytest.raises(UserError, match="Input language unknown") as caught:
        train({**given, "method": "distillation", "reference": "teacher"}, tmp_path)
    assert [p.field for p in caught.value.problems] == ["reference"]
