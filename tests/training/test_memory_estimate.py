"""What a training is told to need: tensors are counted as torch makes them, for every family, and each part has its
cause. `benchmarks/memory_estimate.py` holds the whole against measured peaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from keeltune.models import shapes
from keeltune.objective.formula import Objective
from keeltune.recipe import from_dict
from keeltune.training import rehearsal
from keeltune.training.memory_estimate import memory_estimate
from keeltune.training.preparation.prepare import prepare
from keeltune.training.rehearsal import LiveBytes, scoring_bytes, step_bytes
from keeltune.training.student_skeleton import student_skeleton
from tests.helpers import families, wide
from tests.helpers.models import save_tiny
from tests.helpers.runs import make_data, spec_of


def test_bytes_that_are_alive():
    with LiveBytes() as live:
        one = torch.empty(1000, device="meta")
        two = one.view(10, 100)  # of the same memory
        assert live.now == 4000
        three = two + 1
        del one, two
        assert (live.now, live.most) == (4000, 8000)
        del three
    assert (live.now, live.most) == (0, 8000)


SIZES = {
    "bert": ("SequenceClassification", {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}),
    "roberta": ("TokenClassification", {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}),
    "distilbert": ("SequenceClassification", {"dim": 64, "n_heads": 4, "hidden_dim": 128, "n_layers": 2}),
    "gpt2": ("CausalLM", {"n_embd": 64, "n_head": 4, "n_layer": 2}),
    "llama": ("CausalLM", {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
                           "intermediate_size": 128}),
    "bart": ("Seq2SeqLM", {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                           "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}),
    "t5": ("Seq2SeqLM", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}),
}  # fmt: skip
COMMON = {"num_hidden_layers": 2, "vocab_size": 3000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def models_of(kind: str) -> tuple[torch.nn.Module, torch.nn.Module, dict[str, torch.Tensor], int | None]:
    """The same model with numbers and without them, a batch with padding, and N where it has a vocabulary."""
    name, sizes = SIZES[kind]
    config = transformers.AutoConfig.for_model(kind, **{**COMMON, **sizes})
    auto = f"AutoModelFor{name}"
    ids = torch.randint(3, 3000, (6, 40))
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(40) < torch.arange(35, 41)[:, None]).long()}
    if name == "Seq2SeqLM":
        inputs["decoder_input_ids"] = ids[:, :20].clone()
    predictions = {"CausalLM": 6 * 25, "Seq2SeqLM": 6 * 20}.get(name)
    real = getattr(transformers, auto).from_config(config)
    return real, shapes.skeleton(config, auto), inputs, predictions


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("kind", SIZES)
def test_a_step_without_numbers_takes_the_bytes_of_a_real_one(kind, sliced, monkeypatch):
    """Torch's own tensors of a real forward and backward pass on a CPU, counted in the same way."""
    monkeypatch.setattr(rehearsal, "LARGE", 10_000 if sliced else 2**24)
    real, skeleton, inputs, predictions = models_of(kind)
    without = {name: value.to("meta") for name, value in inputs.items()}
    told = step_bytes(skeleton, [], without, predictions, Objective())
    assert told == pytest.approx(step_bytes(real, [], inputs, predictions, Objective()), rel=0.03)
    assert all(weight.grad is None for weight in skeleton.parameters())


@pytest.mark.parametrize("kind", SIZES)
def test_a_scoring_keeps_less_than_a_step(kind):
    _, skeleton, inputs, predictions = models_of(kind)
    without = {name: value.to("meta") for name, value in inputs.items()}
    scoring = scoring_bytes(skeleton, without, predictions)
    assert 0 < scoring < step_bytes(skeleton, [], without, predictions, Objective())


def estimate_of(spec: dict, folder: Path):
    material = prepare(from_dict(spec, folder))
    return memory_estimate(material, student_skeleton(material), "fp32")


FAMILIES = [
    ("text-classification", "distilbert"), ("question-answering", "bert"), ("semantic-role-labeling", "bert"),
    ("summarization", "t5"), ("translation", "marian"), ("text-generation", "llama"),
    ("speech-recognition", "wav2vec2"), ("speech-recognition", "whisper"), ("image-captioning", "vit gpt2"),
]  # fmt: skip
METHODS = ("fine-tuning", "distillation")


@pytest.mark.parametrize(
    ("task", "architecture", "method"),
    wide.all_but([(*one, method) for one in FAMILIES for method in METHODS], families.by_turns(FAMILIES, METHODS)),
)
def test_no_family_has_to_be_guessed(tmp_path, task, architecture, method):
    found = estimate_of(families.spec(tmp_path, task, architecture, method) | {"output": "out"}, tmp_path)
    assert not found.guessed
    assert found.step > found.scoring * 0.1 > 0
    assert (found.references > 0) == (method == "distillation")


@pytest.fixture
def spec(tiny, tmp_path) -> dict:
    make_data(tmp_path)
    return spec_of("fine-tuning", tiny("bert"))


def test_each_part_has_its_cause(spec, tiny, tmp_path):
    plain = estimate_of(spec, tmp_path)
    weights = sum(w.numel() for w in transformers.AutoModelForSequenceClassification.from_pretrained(
        spec["model"]).parameters())  # fmt: skip
    assert plain.weights == 4 * weights
    assert plain.moments == 8 * weights
    assert plain.references == 0
    once = {**spec, "training": {**spec["training"], "optim": "sgd"}}
    assert estimate_of(once, tmp_path).moments == 4 * weights
    start = estimate_of({**spec, "method": "cross-domain"}, tmp_path)
    assert start.references == plain.weights
    adapted = estimate_of({**spec, "training": {**spec["training"], "lora": {"rank": 2}}}, tmp_path)
    assert adapted.moments < plain.moments / 2
    assert adapted.weights > plain.weights


def test_a_teacher_has_its_own_size(spec, tmp_path):
    large = save_tiny(tmp_path / "large", "bert", seed=3)
    config = json.loads((large / "config.json").read_text())
    made = transformers.AutoConfig.for_model(**{**config, "num_hidden_layers": 6})
    transformers.AutoModelForSequenceClassification.from_config(made).save_pretrained(large)
    taught = estimate_of({**spec, "method": "distillation", "reference": str(large)}, tmp_path)
    assert taught.references > 1.5 * taught.weights


def test_attention_with_dropout_grows_with_the_square_of_the_length():
    """Which is where a long question answering takes several times the memory of its tokens."""
    _, skeleton, _, _ = models_of("bert")

    def step(length: int) -> int:
        ids = torch.ones(4, length, dtype=torch.long, device="meta")
        return step_bytes(skeleton, [], {"input_ids": ids, "attention_mask": ids}, None, Objective())

    assert step(400) > 3.2 * step(200) - 2 * sum(4 * w.numel() for w in skeleton.parameters())


@pytest.mark.parametrize("task", ["text-classification", "speech-recognition"])
def test_what_a_model_is_stored_in_changes_no_byte(tmp_path, task):
    """It trains in float32: a skeleton in float16 ran at half its size, or, with convolutions, not at all."""
    spec = families.spec(tmp_path, task, {"text-classification": "bert"}.get(task, "whisper"), "fine-tuning")
    whole = estimate_of(spec | {"output": "out"}, tmp_path)
    config = tmp_path / "student" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    half = estimate_of(spec | {"output": "out"}, tmp_path)
    assert not half.guessed
    assert (half.step, half.scoring, half.weights) == (whole.step, whole.scoring, whole.weights)
