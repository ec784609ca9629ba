"""What a run reads changes while it goes: nothing else is ever trained on, and the run says what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import keeltune as kt
from keeltune import recipe
from keeltune.data.media import ArrayCache
from keeltune.runs.training_log import Watcher
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import StateRefused
from keeltune.utils.progress import Display
from tests.helpers import families

QUIET = Display(quiet=True)


def at_step(monkeypatch, step: int, change) -> list[int]:
    """Calls `change` at the end of an optimizer step; a growing list: the steps that were made."""
    steps, original = [], Watcher.on_step_end

    def on_step_end(self, args, state, control, **kwargs) -> None:
        original(self, args, state, control, **kwargs)
        steps.append(state.global_step)
        if state.global_step == step:
            change()

    monkeypatch.setattr(Watcher, "on_step_end", on_step_end)
    return steps


@pytest.mark.parametrize(
    ("task", "architecture", "files"),
    [("image-captioning", "vit gpt2", "pictures/*.png"), ("speech-recognition", "wav2vec2", "audio/*.wav")],
)
def test_a_replaced_picture_or_recording_is_never_trained_on(tmp_path, monkeypatch, task, architecture, files):
    """Each of them by another one that is as sound, so that nothing but its content tells."""
    values = families.spec(tmp_path, task, architecture, "fine-tuning") | {"output": "out"}
    del values["data"]["test"]
    monkeypatch.setattr(ArrayCache, "keep", lambda self, digest, arrays: None)  # as where there are too many

    def exchange() -> None:
        paths = sorted(tmp_path.glob(files))
        contents = [path.read_bytes() for path in paths]
        for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
            path.write_bytes(content)

    losses = []
    original = KeelTrainer.compute_loss
    monkeypatch.setattr(
        KeelTrainer, "compute_loss", lambda self, *args, **named: (losses.append(1), original(self, *args, **named))[1]
    )
    steps = at_step(monkeypatch, 2, exchange)
    with pytest.raises(StateRefused) as refused:
        kt.train(recipe.from_dict(values, tmp_path), display=QUIET)
    (problem,) = refused.value.problems
    assert Path(problem.where.rpartition(":")[0]).name == "rows.jsonl"
    assert "replaced since its row was read" in problem.found
    assert Path(problem.found.split(",")[0]).suffix in (".png", ".wav")
    assert steps == [1, 2]
    assert len(losses) == 4  # two micro-batches each
