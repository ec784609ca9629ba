"""SpecAugment: what a model hears is masked while it trains, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import keeltune as kt
from keeltune import recipe
from keeltune.training.preparation import prepare
from keeltune.training.regularizers.spec_augment import SpecAugment
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import speakers, whispers
from tests.helpers.speakers import TEXTS, row_of, save_sound

QUIET = Display(quiet=True)


def heard_by(model: Any, batch: dict[str, Any], task: Any) -> torch.Tensor:
    """The features that reach Whisper's encoder in a forward pass."""
    seen: list[torch.Tensor] = []
    hook = model.model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    task.forward(model, batch)
    hook.remove()
    return seen[0]


def test_spans_of_time_and_of_frequency_are_masked_in_training_alone(tmp_path):
    model, task = whispers.speaker()
    rows = [row_of(tmp_path / save_sound(tmp_path, i), text, i) for i, text in enumerate(TEXTS[:4])]
    batch = task.collate([e for row in rows for e in task.encode(row)])
    whole = batch["inputs"]["input_features"].clone()
    masking = SpecAugment(0.3)
    masking.begin(model)
    own = model.config.to_dict()
    np.random.seed(0)
    model.train()
    with masking.on_micro_batch(repeated=False):
        masked = heard_by(model, batch, task)
        again = heard_by(model, batch, task)
    assert not torch.equal(masked, again)  # drawn anew
    hidden = (masked == 0) & (whole != 0)
    assert torch.equal(masked[~hidden], whole[~hidden])
    assert hidden.all(1).any() and hidden.all(2).any()  # frames, and mel bins
    assert 0.2 < hidden.float().mean() < 0.7
    assert torch.equal(batch["inputs"]["input_features"], whole)  # what others read after it
    assert model.config.to_dict() == own
    assert torch.equal(heard_by(model, batch, task), whole)  # out of a step
    model.eval()
    with masking.on_micro_batch(repeated=False):
        assert torch.equal(heard_by(model, batch, task), whole)


@pytest.mark.parametrize(("kind", "word"), [("speech_to_text", "masks nothing"), ("moonshine", "masks nothing")])
def test_a_model_that_masks_nothing_is_refused(tmp_path, kind, word):
    given = speakers.spec(tmp_path, kind, "fine-tuning")
    given["training"]["regularizers"] = {"spec_augment": 0.1}
    with pytest.raises(UserError, match=word) as refused:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    assert [p.field for p in refused.value.problems] == ["training.regularizers.spec_augment"]


def test_it_changes_a_run_and_not_what_is_saved_of_the_model(tmp_path):
    given = speakers.spec(tmp_path, "whisper", "cross-domain")
    runs = {}
    for name, asked in (("plain", {}), ("masked", {"spec_augment": 0.2}), ("again", {"spec_augment": 0.2})):
        training = {**given["training"], "regularizers": asked, "epochs": 1}
        runs[name] = kt.train(
            recipe.from_dict({**given, "training": training, "output": name}, tmp_path), display=QUIET
        )
    weights = {name: (run.model / "model.safetensors").read_bytes() for name, run in runs.items()}
    assert weights["masked"] == weights["again"] != weights["plain"]
    configs = [json.loads((runs[name].model / "config.json").read_text()) for name in ("plain", "masked")]
    assert configs[0] == configs[1]
    assert runs["masked"].result["training"]["regularizers"] == {"spec_augment": 0.2}
