"""The short form of `python -m benchmarks.architectures`: one architecture of each kind that others are not like."""

from __future__ import annotations

import pytest
import torch
from benchmarks.architectures import checks, folders
from benchmarks.architectures.discovery import cells

CELLS = {cell.name: cell for cell in cells()}
FAST = (
    "text-classification/fnet",  # mixes all positions, padding too
    "text-generation/mamba",  # a state-space model
    "text-generation/recurrent_gemma",  # a state that reads the padding before a prompt
    "text-generation/mixtral",  # experts
    "question-answering/convbert",  # convolves
)
OTHERS = ("text-generation/doge", "semantic-role-labeling/mobilebert", "summarization/plbart")
SLOW = (
    "text-classification/canine", "text-classification/funnel", "text-generation/rwkv",
    "text-generation/deepseek_v4", "summarization/switch_transformers",
)  # fmt: skip
SLOW_OTHERS = (
    "text-classification/nystromformer", "text-classification/yoso", "text-classification/t5gemma",
    "text-generation/jamba", "text-generation/qwen3_next", "speech-recognition/sew",
)  # fmt: skip


def test_the_cells_are_those_of_transformers_own_mappings():
    """A new architecture joins by itself."""
    kinds = {cell.architecture for cell in CELLS.values()}
    assert len(kinds) > 250
    assert {"bert", "mamba", "whisper", "wav2vec2", "t5", "llava", "mixtral"} <= kinds


# slow: two runs and two trainings for each of five more
@pytest.mark.parametrize(
    "name",
    [
        *FAST,
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, marks=pytest.mark.wide) for name in (*OTHERS, *SLOW_OTHERS)),
    ],
)
def test_loss_gradient_accumulation_saving_and_resuming_are_exact(name):
    outcome = checks.run(CELLS[name])
    assert outcome.outcome == "passed", outcome


def test_a_model_that_reads_the_token_it_is_asked_for_is_refused():
    outcome = checks.run(CELLS["text-generation/xlm"])
    assert outcome.outcome == "refused"
    assert "changes with the tokens behind it" in outcome.reason


def test_the_closed_form_sees_a_wrong_gradient(monkeypatch):
    """The check itself: a loss that is a thousandth too large does not pass."""
    original = checks.StepLoss.__call__

    def scaled(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return loss._replace(total=loss.total * 1.001)

    monkeypatch.setattr(checks.StepLoss, "__call__", scaled)
    outcome = checks.run(CELLS["text-classification/bert"])
    assert outcome.outcome == "failed"
    assert outcome.gradient == pytest.approx(1e-3, rel=1e-3)  # of what float32 computes last


def test_a_small_model_of_an_architecture_is_small(tmp_path):
    folders.make(CELLS["text-generation/llama"], tmp_path)
    size = sum(file.stat().st_size for file in (tmp_path / "student").glob("*.safetensors"))
    assert size < 4 * folders.LARGEST
    assert torch.get_default_dtype() == torch.float32
