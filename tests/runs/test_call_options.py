"""What a call of `evaluate` says itself: the prompt of a bare model, how transcripts are made alike."""

from __future__ import annotations

import json

import pytest

import keeltune as kt
from keeltune.models import saving
from keeltune.runs.call_options import CallOptions
from keeltune.runs.opened_model import open_model
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.cli.test_cli import keeltune
from tests.helpers import speakers, writers

QUIET = Display(quiet=True)
MESSAGES = [{"role": "user", "content": "Shorten {document}"}]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A folder with a decoder without a chat template, and rows."""
    folder = tmp_path_factory.mktemp("decoder")
    writers.folder_of(*writers.writer("gpt2", task="summarization"), folder / "model")
    writers.write(folder / "rows.jsonl", "summarization")
    return folder


def test_a_bare_model_is_asked_what_the_call_says(decoder, monkeypatch, capsys):
    rows = decoder / "rows.jsonl"
    own = kt.evaluate(decoder / "model", rows, task="summarization", display=QUIET)["metrics"]
    asked = kt.evaluate(decoder / "model", rows, task="summarization", prompt="so {document}:", display=QUIET)[
        "metrics"
    ]
    assert own["loss"] != asked["loss"]
    call = ["evaluate", str(decoder / "model"), "--data", str(rows), "--task", "summarization", "--json"]
    assert keeltune(monkeypatch, *call, "--prompt", "so {document}:") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == pytest.approx(asked)


@pytest.mark.parametrize(
    ("given", "read"),
    [("[INST] {document} [/INST]", "[INST] {document} [/INST]"), (MESSAGES, MESSAGES),
     (json.dumps(MESSAGES), MESSAGES)],
)  # fmt: skip
def test_a_prompt_is_a_text_or_messages(given, read):
    assert CallOptions(prompt=given).asked("m", of_run=False, writes=True) == read


@pytest.mark.parametrize("given", ["", "[]", '["a"]', '[{"role": "user"}]', [{"role": 1, "content": "a"}]])
def test_what_is_no_prompt_is_refused(given):
    with pytest.raises(UserError, match="messages"):
        CallOptions(prompt=given).asked("m", of_run=False, writes=True)


def test_prompts_that_do_not_apply_are_refused(decoder, tiny):
    with pytest.raises(UserError, match="a run, whose recipe says what is asked"):
        CallOptions(prompt="a").asked("runs/a", of_run=True, writes=True)
    with pytest.raises(UserError, match="writes no text"):
        open_model(tiny("bert"), "text-classification", options=CallOptions(prompt="a {text}"))
    with pytest.raises(UserError, match="--prompt"):
        open_model(decoder / "model", "summarization", options=CallOptions(prompt="of {summary}"))


def test_a_normaliser_holds_for_transcripts_alone(decoder, tmp_path):
    model, task = speakers.speaker("whisper")
    saving.save(model, task.processor, tmp_path)
    whisper = CallOptions(normalizer="whisper")
    opened = open_model(tmp_path, "speech-recognition", options=whisper).task
    assert opened.statistics(["it's two"], ["it is 2"])[:, 0].sum() == 0
    assert open_model(tmp_path, "speech-recognition").task.settings.normalizer is None
    with pytest.raises(UserError, match="one of: whisper"):
        open_model(tmp_path, "speech-recognition", options=CallOptions(normalizer="Whisper"))
    with pytest.raises(UserError, match="neither WER nor CER"):
        open_model(decoder / "model", "summarization", options=whisper)
