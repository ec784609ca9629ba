"""Each architecture, under every method in turn: it trains, accumulates exactly, goes on after a stop bit for bit, and
leaves a folder that stock transformers loads and that predicts the same. No case is special."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import keeltune as kt
from keeltune import recipe
from keeltune.evaluation import prediction
from keeltune.models import surgery
from keeltune.training import build, checkpoints
from keeltune.training.job import Job
from keeltune.utils.errors import StateRefused, UserError
from keeltune.utils.progress import Display
from tests.helpers import captioners
from tests.helpers.exact import error_of_accumulation
from tests.helpers.families import FAMILIES, by_turns, spec
from tests.helpers.interruption import Killed, copy_at, kill_at, same

QUIET = Display(quiet=True)
TASKS = [task for task in FAMILIES if task not in ("sentiment-analysis", "summarization")]
"""Those two are others of these with other columns."""

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM's own


CELLS = [(task, *cell) for task in TASKS for cell in by_turns([(name,) for name in FAMILIES[task].architectures])]
"""A family's first architecture under every method, each of the others under one of them, by turns."""

STAND_FOR_ALL = {
    "text-classification": ("bert-distillation", "xlnet", "gpt2", "llama"),
    "semantic-role-labeling": ("bert-cross-domain", "gpt2", "t5"),
    "regression": ("bert-distillation",),  # text-classification's models with another head
    "token-classification": ("roberta",),  # semantic-role-labeling's
    "question-answering": ("bert-distillation", "roberta", "t5"),
    "translation": ("marian-cross-domain", "bart", "m2m_100", "t5"),
    "text-generation": ("gpt2-cross-domain", "llama", "gemma2", "cohere", "gpt_neox", "opt"),
    "image-captioning": ("vit gpt2-distillation", "vit bert", "florence2", "pix2struct", "git", "llava", "gemma3",
                         "paligemma", "idefics3"),
    "speech-recognition": ("wav2vec2-distillation", "wav2vec2 group", "wavlm", "wav2vec2-bert", "wav2vec2-conformer",
                           "whisper", "speech_to_text", "moonshine", "speech-encoder-decoder"),
}  # fmt: skip
"""Those whose models compute, pad, name or save in a way of their own; the rest are their kin: mBART and Pegasus of
BART, mT5 and UMT5 of T5, Mistral, Qwen2, Gemma and OLMo of Llama and Gemma 2, SmolVLM of Idefics3, and HuBERT of
wav2vec2."""


def cell(task: str, architecture: str, method: str):
    stands = {architecture, f"{architecture}-{method}"} & {*STAND_FOR_ALL[task]}
    marks = () if stands else pytest.mark.wide
    return pytest.param(task, architecture, method, marks=marks, id=f"{task}-{architecture}-{method}")


@pytest.mark.parametrize(("task", "architecture", "method"), [cell(*each) for each in CELLS])
def test_every_architecture_by_every_method_in_turn(tmp_path, monkeypatch, task, architecture, method):
    given = spec(tmp_path, task, architecture, method)
    given["training"] |= {"max_steps": 4, "save_steps": 2}
    given |= {"report": {"texts": False}, "data": {"train": "rows.jsonl", "test": "few.jsonl"}}
    lines = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    jobs: list[Job] = []
    original = build.build
    monkeypatch.setattr(build, "build", lambda *args: jobs.append(original(*args)) or jobs[-1])

    def train(output: str, **how: bool) -> kt.Run:
        return kt.train(recipe.from_dict({**given, "output": output}, tmp_path), display=QUIET, **how)

    with monkeypatch.context() as patch:
        copy_at(patch, {3: (tmp_path / "whole", tmp_path / "cut")})
        run = train("whole")
    (job,) = jobs
    result = run.result
    assert result["status"] == "completed"
    assert result["training"]["steps"] == 4
    assert result["metrics"]["test"]["loss"] != result["metrics"]["before"]["test"]["loss"]
    assert result["reference"]["kind"] == ("none" if method == "fine-tuning" else "model")
    again = train("cut", resume=True)
    assert same(run.folder, again.folder)
    assert again.result["metrics"] == result["metrics"]
    check_saved_model(run, job, tmp_path / "few.jsonl")
    assert error_of_accumulation(job, tmp_path, epochs=1) < 1e-6


def check_saved_model(run: kt.Run, job: Job, rows: Path) -> None:
    """The folder predicts what the run did, and stock transformers loads it whole and predicts the same."""
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]
    answers = kt.predict(run.folder, rows, display=QUIET)
    assert [line["prediction"] for line in answers] == [line["prediction"] for line in stored]

    stock, loading = getattr(transformers, job.material.auto_model).from_pretrained(
        run.model, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    found = prediction.predict(stock, job.material.task, job.material.encoded["test"])
    assert [answer.value for answer in found] == [line["prediction"] for line in stored]
    after = run.result["metrics"]["test"]["loss"]
    assert sum(a.loss for a in found) / sum(a.count for a in found) == pytest.approx(after, rel=1e-6)


def test_batch_norms_keep_their_statistics_and_train_their_weights(tmp_path):
    given = spec(tmp_path, "speech-recognition", "wav2vec2-conformer", "fine-tuning")
    said: list[str] = []
    display = Display(quiet=True)
    display.say = said.append
    run = kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=display)
    assert "2 batch norms keep their mean and variance while training; their weight and bias are trained" in said
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "student", run.model))
    kept = [name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert len(kept) == 2 * 3
    assert all(before[name].equal(after[name]) for name in kept)
    trained = [name for name in before if "batch_norm" in name and name not in kept]
    assert len(trained) == 2 * 2
    assert not any(before[name].equal(after[name]) for name in trained)


def test_a_new_models_batch_norms_are_said_to_normalise_nothing():
    """y = x · weight / √(1 + ε) + bias, whatever the batch; one that has seen a batch is not new."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.LayerNorm(3), torch.nn.BatchNorm1d(3))
    (note,) = surgery.batch_norm_notes(model)
    assert note.startswith("2 batch norms")
    assert note.endswith("a scale and a shift: 2 of them")
    x = 5 + torch.randn(4, 3)
    torch.testing.assert_close(model[0].eval()(x), x / (1 + 1e-5) ** 0.5)
    model[2](x)
    assert surgery.batch_norm_notes(model)[0].endswith(": 1 of them")
    assert surgery.batch_norm_notes(model[1]) == []


def test_a_checkpoint_with_other_names_is_refused(tmp_path, monkeypatch):
    """As save_pretrained writes them: it would go on from the weights of the start, and say nothing."""
    named = checkpoints.weights_that_change

    def as_first_released(*given):
        return {name.replace("lm_head", "embed_out"): weight for name, weight in named(*given).items()}

    given = {**spec(tmp_path, "text-generation", "gpt_neox", "fine-tuning"), "output": "out"}
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        patch.setattr(checkpoints, "weights_that_change", as_first_released)
        with pytest.raises(Killed):
            kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    with pytest.raises(
        StateRefused, match=r"2 weights that the model and the checkpoint do not share \(embed_out.weight"
    ):
        kt.train(recipe.from_dict(given, tmp_path), resume=True, display=QUIET)


def test_an_encoder_that_no_decoder_can_read_is_refused(tmp_path):
    given = spec(tmp_path, "image-captioning", "vit gpt2", "fine-tuning")
    parts = {"encoder": {"model_type": "resnet"}, "decoder": {"model_type": "gpt2", **captioners.PARTS["gpt2"]}}
    given["model"] = {
        "new": {"model_type": "vision-encoder-decoder", **parts}, "tokenizer": {"train": "bpe", "size": 300}
    }  # fmt: skip
    with pytest.raises(UserError, match="'ResNetConfig' object has no attribute 'hidden_size'") as caught:
        kt.train(recipe.from_dict({**given, "output": "out"}, tmp_path), display=QUIET)
    assert caught.value.problems[0].field == "model.new"
    assert not (tmp_path / "out").exists()
