"""What is tried of a model before its first step: that it reads the rows, and not the token that it is asked for."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.models import initialization
from keeltune.training.model_trial import refusing
from keeltune.training.preparation.prepare import prepare
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


def cut_logits(monkeypatch, width: int) -> None:
    """GPT-2 as Inkling is: its head has rows whose logits are dropped."""
    whole = transformers.GPT2LMHeadModel.forward

    def forward(self, *args, **kwargs):
        outputs = whole(self, *args, **kwargs)
        outputs.logits = outputs.logits[..., :width]
        return outputs

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", forward)


def test_a_head_that_has_no_output_for_a_row_is_refused(tmp_path, monkeypatch):
    given = spec(tmp_path, "gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=64)
    cut_logits(monkeypatch, 10)
    with pytest.raises(UserError, match="chooses among 10 outputs, where a row has the id") as caught:
        train(given, tmp_path)
    assert [p.field for p in caught.value.problems] == ["model"]
    assert caught.value.problems[0].expected == "ids from 0 to 9"


def test_logits_that_a_configuration_drops_are_none_that_check_counts(tmp_path, monkeypatch):
    given = spec(tmp_path, "gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=64, unpadded_vocab_size=10)
    cut_logits(monkeypatch, 10)
    with pytest.raises(UserError, match=r"tokens for 10 embeddings"):
        prepare(recipe.from_dict(given, tmp_path))


def test_logits_that_no_text_needs_may_be_dropped(tmp_path, monkeypatch):
    """The loss is that of the outputs that are left."""
    words = len(writers.tokenizer(ends=False))
    given = spec(tmp_path, "gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=64, unpadded_vocab_size=words)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "student")
    model.resize_token_embeddings(words + 9)
    model.save_pretrained(tmp_path / "student")
    cut_logits(monkeypatch, words)
    cross_entropy = train(given, tmp_path).result["objective"]["cross_entropy"]
    monkeypatch.undo()
    model.resize_token_embeddings(words)
    model.save_pretrained(tmp_path / "student")
    assert train({**given, "output": "plain"}, tmp_path).result["objective"]["cross_entropy"] == cross_entropy


def test_evaluate_refuses_it_too(tmp_path):
    spec(tmp_path, "xmod", **models.BODY)
    with pytest.raises(UserError, match="Input language unknown") as caught:
        kt.evaluate(tmp_path / "student", tmp_path / "rows.jsonl", task="text-generation", display=QUIET)
    assert caught.value.problems[0].where == str(tmp_path / "student")


def test_a_reference_that_raises_is_refused_as_the_reference(tmp_path):
    given = spec(tmp_path, "bert", **models.BODY)
    spec(tmp_path, "xmod", "teacher", **models.BODY)
    with pytest.raises(UserError, match="Input language unknown") as caught:
        train({**given, "method": "distillation", "reference": "teacher"}, tmp_path)
    assert [p.field for p in caught.value.problems] == ["reference"]


REFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "attn_layers": ["local", "local"], "num_attention_heads": 2,
            "attention_head_size": 16, "feed_forward_size": 64, "max_position_embeddings": 256, "is_decoder": True,
            "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 16}  # fmt: skip


def test_a_model_that_raises_while_it_is_trained_alone_is_refused_too(tmp_path):
    """Reformer reads rows of any length, and in train mode of one: no trial in eval mode finds that."""
    given = spec(tmp_path, "reformer", **REFORMER)
    with pytest.raises(UserError, match="whose forward pass fails on a row: If training, make sure") as caught:
        train(given, tmp_path)
    assert [p.field for p in caught.value.problems] == ["model"]


def test_a_fault_of_ours_and_a_full_memory_are_no_models(tmp_path):
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(ZeroDivisionError), refusing(model, ("r.yaml:1", "model")):
        1 / 0  # noqa: B018
    with pytest.raises(AttributeError), refusing(model, ("r.yaml:1", "model")):
        model.no_such_part  # noqa: B018
    for error in (RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")):
        hook = model.transformer.wte.register_forward_hook(raising(error))
        with pytest.raises(type(error)), refusing(model, ("r.yaml:1", "model")):
            model(torch.tensor([[1, 2]]))
        hook.remove()


def raising(error: Exception):
    def hook(*_: object) -> None:
        raise error

    return hook
