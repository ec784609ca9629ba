"""Which rows may share a forward pass: measured, and then every row is what it is alone."""

from __future__ import annotations

import pytest
import torch
import transformers

from keeltune.models import initialization
from keeltune.tasks.common.settings import Settings
from keeltune.utils.registry import find
from tests.helpers import writers

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
EXPERTS = {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
DOGE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "keep_window_size": 8, "num_key_value_heads": 1}  # fmt: skip


def writer(kind: str, **sizes):
    """(model, task, examples) of a small random model."""
    words = writers.tokenizer(ends="d_model" in sizes)
    config = transformers.AutoConfig.for_model(kind, **sizes)
    initialization._fit_vocabulary(config, words, {})
    task_class = find("tasks", "translation")
    auto = "AutoModelForSeq2SeqLM" if "d_model" in sizes else "AutoModelForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    task = task_class(words, Settings(config=config, auto_model=auto, max_new_tokens=4))
    return model, task, [e for row in writers.rows() for e in task.encode(row)]


@pytest.mark.parametrize(
    ("kind", "sizes", "sharing"),
    [
        ("switch_transformers", {**EXPERTS, "expert_capacity": 2}, "any"),  # an expert's room is a row's own
        ("t5", T5, "any"),
        ("doge", DOGE, "one length"),  # keys that are kept are chosen among the padding's too
    ],
)
def test_rows_in_a_batch_are_what_they_are_alone(kind, sizes, sharing):
    check(*writer(kind, **sizes), sharing)


def test_rows_that_read_one_another_run_alone():
    """The first token's state takes part of the other rows': no padding of a single row shows it."""
    model, task, examples = writer("t5", **T5)

    def mixed(module, arguments, output):
        return torch.cat([output[:, :1] + output[:, :1].mean(0, keepdim=True), output[:, 1:]], 1)

    model.encoder.final_layer_norm.register_forward_hook(mixed)
    check(model, task, examples, "none")


def test_a_state_that_mixes_rows_when_it_goes_on_has_each_prompt_written_for_alone():
    """RWKV's second token is made of a [B, B, H] of all rows: found where two tokens are written side by side."""
    model, task, examples = writer("rwkv", hidden_size=16, attention_hidden_size=16, num_hidden_layers=2)
    assert len(task.groups(model, examples, "cpu")) == len(examples)
    both = [answer.value for answer in task.predict(model, examples)]
    assert both == [task.predict(model, [example])[0].value for example in examples]
    model, task, examples = writer("llama", **writers.SIZES["llama"])
    assert len(task.groups(model, examples, "cpu")) == 1


def test_what_is_padded_to_one_length_is_read_in_one_pass():
    model, task, examples = writer("t5", **T5)
    passes: list[int] = []
    model.register_forward_pre_hook(
        lambda module, arguments, named: passes.append(len(named["input_ids"])), with_kwargs=True
    )
    assert task.padding_effect.sharing(model, task.collate(examples)) == "any"
    assert sorted(passes) == [1] * 9 + [4, 4, len(examples)]  # four lengths of what is read and of what is written


def check(model, task, examples, sharing):
    batch = task.collate(examples)
    with torch.no_grad():
        assert task.padding_effect.sharing(model, batch) == sharing
        together = task.rows(task.forward(model, batch), batch).log_probs(slice(None))
        alone = []
        for example in examples:
            outputs = model(**{name: torch.tensor([ids]) for name, ids in example.inputs.items()})
            alone.append(outputs.logits[0][torch.tensor(example.predicted)].log_softmax(-1))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=2e-5)
    both = [answer.value for answer in task.predict(model, examples)]
    assert both == [task.predict(model, [example])[0].value for example in examples]
