"""NEFTune's noise: its size for each text, whatever lies beside it, and nothing of it outside of training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keeltune.training.regularizers.neftune import Neftune
from tests.helpers import writers


@pytest.mark.parametrize(
    ("architecture", "packing"),
    [("gpt2", False), ("gpt2", True), ("llama", False), ("llama", True), ("t5", False)],  # packing is for decoders
)
def test_the_noise_of_a_text_has_the_size_of_its_own_length(architecture, packing):
    """Uniform in ±α/√(L d): below the bound everywhere, and near it somewhere, of the longest and the shortest text."""
    name = "summarization" if architecture == "t5" else "text-generation"
    model, plain = writers.writer(architecture, task=name)
    task = type(plain)(plain.processor, replace(plain.settings, packing=packing))
    batch = task.collate([e for row in writers.rows(name) for e in task.encode(row)])
    task.forward(model, batch)  # whether texts may be packed, or padded, is tried once
    regularizer = Neftune(5.0)
    regularizer.begin(model)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    weight = regularizer.table.weight
    with regularizer.on_micro_batch(repeated=False):
        handle = regularizer.table.register_forward_hook(lambda m, ids, out: seen.append((ids[0], out.detach())))
        task.forward(model, batch)
        with torch.no_grad():
            task.forward(model, batch)
        handle.remove()
    ids, embedded = seen[0]
    noise = embedded - torch.nn.functional.embedding(ids, weight).detach()
    mask = batch["inputs"]["attention_mask"]
    lengths = mask.sum(1)
    bounds = 5.0 / (lengths * weight.shape[1]).sqrt()
    if packing:  # the longest text is the first of the first sequence
        of_longest = noise[0, : lengths.max()].abs().max()
        assert 0.9 * bounds.min() < of_longest <= bounds.min() * (1 + 1e-5)
    else:
        for row, length, bound in zip(noise, lengths.tolist(), bounds.tolist(), strict=True):
            assert 0.9 * bound < row[:length].abs().max() <= bound * (1 + 1e-5)
    without = seen[-1]
    torch.testing.assert_close(without[1], torch.nn.functional.embedding(without[0], weight).detach())
    assert not regularizer.table._forward_hooks and not model._forward_pre_hooks


def test_noise_is_drawn_again_in_each_pass_and_is_without_bias():
    model, task = writers.writer("llama", task="text-generation")
    batch = task.collate([e for row in writers.rows("text-generation") for e in task.encode(row)])
    regularizer, seen = Neftune(5.0), []
    regularizer.begin(model)
    with regularizer.on_micro_batch(repeated=False):
        handle = regularizer.table.register_forward_hook(lambda m, ids, out: seen.append(out.detach()))
        for _ in range(200):
            model(**batch["inputs"])
        handle.remove()
    assert not torch.equal(seen[0], seen[1])
    noise = torch.stack(seen) - regularizer.table(batch["inputs"]["input_ids"]).detach()
    assert noise.mean().abs() < 0.01 * noise.abs().max()
