"""`training.attention`: the model really computes it so, to the same loss; what it cannot have is refused at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from keeltune import recipe
from keeltune.models import attention_choice
from keeltune.models.attention_choice import attention_problem, choose_attention
from keeltune.training import build
from keeltune.training.preparation.prepare import prepare
from keeltune.training.step_loss import step_loss
from keeltune.utils.errors import UserError
from tests.helpers import families, models

KINDS = [("text-classification", "bert"), ("text-generation", "llama"), ("summarization", "bart")]
CLASSIFIER = "AutoModelForSequenceClassification"


def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The implementations that are looked up in transformers' table, which is where every layer asks."""
    asked: list[str] = []
    table = type(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS)
    original = table.get_interface

    def noted(self: Any, name: str, *rest: Any) -> Any:
        asked.append(name)
        return original(self, name, *rest)

    monkeypatch.setattr(table, "get_interface", noted)
    return asked


@pytest.mark.parametrize(("task", "architecture"), KINDS)
def test_each_is_what_the_layers_compute_and_all_have_one_loss(tmp_path, monkeypatch, task, architecture):
    spec = families.spec(tmp_path, task, architecture, "cross-domain") | {"output": "out"}
    losses, gradients = {}, {}
    asked = called(monkeypatch)
    for name in ("eager", "sdpa"):
        spec["training"]["attention"] = name
        job = build.build(prepare(recipe.from_dict(spec, tmp_path)))
        asked.clear()
        batch = build.collated(job, job.plan.micro_batch(0, 0, 0))
        counts = [torch.tensor(float(count)) for count in (*job.material.task.counts(batch), len(batch["keys"]))]
        loss = step_loss(job)(job.model.eval(), batch, counts)
        assert set(asked) == {name}
        loss.total.backward()
        losses[name] = loss.sums
        gradients[name] = torch.cat([w.grad.flatten() for w in job.model.parameters() if w.grad is not None])
    torch.testing.assert_close(losses["eager"], losses["sdpa"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients["eager"], gradients["sdpa"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "name", "message"),
    [
        ("bert", "flash_attention_2", "bert: no GPU is here"),
        ("bert", "flash_attention_3", "bert: no GPU is here"),
        ("deberta-v2", "sdpa", "deberta-v2: "),
        ("xlnet", "sdpa", "xlnet: "),
        ("deberta-v2", "flex_attention", "deberta-v2: "),
    ],
)
def test_what_model_or_machine_lacks_is_refused_before_training(tmp_path, architecture, name, message):
    spec = families.spec(tmp_path, "text-classification", architecture, "fine-tuning") | {"output": "out"}
    spec["training"] |= {"attention": name, "precision": "auto"}
    with pytest.raises(UserError, match=rf"(?s)training\.attention\n +found: +{name}, for {message}.*attention: auto"):
        prepare(recipe.from_dict(spec, tmp_path))


def test_eager_is_what_every_model_has():
    for architecture in models.SIZES:
        config = models.tiny_config(architecture, ["a", "b"])
        assert attention_problem(config, CLASSIFIER, "eager", "") is None, architecture


def test_attention_in_half_precision_alone_steps_back_in_full(monkeypatch):
    """`eager` stands for it, as no GPU is here."""
    monkeypatch.setattr(attention_choice, "HALF_ALONE", ("eager",))
    monkeypatch.setattr(attention_choice, "_has_flash", lambda name: True)
    model = transformers.AutoModelForSequenceClassification.from_config(models.tiny_config("bert", ["a", "b"]))
    choose_attention(model, "eager")
    asked, ids = called(monkeypatch), torch.tensor([[5, 6, 7]])
    model(input_ids=ids)
    assert set(asked) == {"sdpa"} and model.config._attn_implementation == "eager"
    asked.clear()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)
    model.to(torch.bfloat16)(input_ids=ids)
    assert set(asked) == {"eager"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"attention": "flash_attention_2", "precision": "fp32"}}, "half precision alone"),
        ({"training": {"attention": "flash"}}, "flash_attention_2"),
        ({"training": {"attn_implementation": "sdpa"}}, r"use training\.attention"),
    ],
)
def test_a_recipe_says_what_goes_together(tmp_path, changes, message):
    spec = families.spec(tmp_path, "text-classification", "bert", "fine-tuning") | {"output": "out"}
    spec["training"] |= changes["training"]
    with pytest.raises(UserError, match=message):
        recipe.from_dict(spec, tmp_path)


def test_where_heads_are_compared_attention_is_eager(tmp_path):
    spec = families.spec(tmp_path, "text-classification", "bert", "distillation") | {"output": "out"}
    spec["training"]["attention"] = "sdpa"
    spec["objective"]["matching"] = {"attention": 1.0}
    with pytest.raises(UserError, match=r"(?s)training\.attention.*expected: eager"):
        prepare(recipe.from_dict(spec, tmp_path))
