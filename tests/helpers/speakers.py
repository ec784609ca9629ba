"""Small random models that write down what is said, of several architectures, and made-up recordings for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers

from keeltune.data.dataset import Row
from keeltune.data.media import Media
from keeltune.models import initialization, loading, saving, sealed_model, surgery
from keeltune.recipe import fields
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.speech_recognition import SpeechRecognition
from tests.helpers import once

RATE = 16_000
TEXTS = [
    "zero", "one", "two two", "three", "a bell", "five is all", "six", "seven", "hello", "nine",
    "good", "no",
]  # fmt: skip
CONV = {"conv_dim": [12, 12, 12], "conv_kernel": [10, 8, 4], "conv_stride": [5, 8, 4], "num_feat_extract_layers": 3}
BODY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
STILL = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
WAVE = {**BODY, **CONV, **STILL, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "conv_bias": True}
STACK = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
         "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "wav2vec2": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "wav2vec2 group": {**WAVE, "feat_extract_norm": "group"},
    "hubert": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "wavlm": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "unispeech-sat": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "data2vec-audio": {**WAVE, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
    "wav2vec2-bert": {**BODY, **STILL, "feature_projection_input_dim": 40, "conv_depthwise_kernel_size": 3,
                      "left_max_position_embeddings": 8, "right_max_position_embeddings": 4},
    "wav2vec2-conformer": {**WAVE, "feat_extract_norm": "layer", "conv_depthwise_kernel_size": 3},
    "hubert batch": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_pos_batch_norm": True},
    "whisper": {**STACK, "num_mel_bins": 20, "max_source_positions": 100, "max_target_positions": 32},
    "speech_to_text": {**STACK, "input_feat_per_channel": 20, "conv_channels": 16, "max_target_positions": 64},
    "moonshine": {"hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 2,
                  "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2,
                  "decoder_num_attention_heads": 2},
    "speech-encoder-decoder": {
        "encoder": {"model_type": "wav2vec2", **WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
        "decoder": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48},
    },
}  # fmt: skip
CTC = ("wav2vec2", "wav2vec2 group", "hubert", "wavlm", "unispeech-sat", "data2vec-audio", "wav2vec2-bert",
       "wav2vec2-conformer", "hubert batch")  # fmt: skip
SEQ2SEQ = ("whisper", "speech_to_text", "moonshine", "speech-encoder-decoder")
KINDS = (*CTC, *SEQ2SEQ)
APART = {"wav2vec2 group", "data2vec-audio", "wav2vec2-conformer", "hubert batch", "speech_to_text", "moonshine"}
"""Whose output depends on the padding: normalised over the whole length, or shifted or convolved where no mask
reaches."""


def tone(text: str, number: int, seconds: float) -> np.ndarray:
    """A made-up recording: each letter a tone of its own, with some noise."""
    count = int(seconds * RATE)
    letters = np.array([ord(c) for c in text])[np.arange(count) * len(text) // count]
    phase = np.cumsum(2 * np.pi * (200 + 25 * (letters % 64)) / RATE)
    return 0.4 * np.sin(phase) + 0.02 * np.random.default_rng(number).standard_normal(count)


def save_sound(folder: Path, number: int) -> str:
    name = f"audio/{number}.wav"
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    seconds = 0.5 + 0.09 * (number // 3)  # three of each length: some of a step share a forward pass, some do not
    soundfile.write(folder / name, tone(TEXTS[number], number, seconds), RATE)
    return name


def media_of(path: Path) -> Media:
    made = Media(path.name)
    made.path, made.digest = path, hashlib.sha256(path.read_bytes()).hexdigest()
    return made


def row_of(path: Path, text: str, number: int = 0) -> Row:
    return Row({"audio": media_of(path), "text": text}, "f.jsonl", number + 1, f"k{number}")


def spec_of(kind: str) -> dict[str, Any]:
    return {"model_type": kind.split()[0], **SIZES[kind]}


class Anywhere:
    """As much of a recipe as `newborn` asks for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def where(self, field: str) -> str:
        return field

    def path(self, value: str) -> Path:
        return self.folder / value


def speaker(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, Any]:
    """(model, task) of a small random model."""
    rows = [Row({"audio": "", "text": text}, "f", 1, "k") for text in TEXTS]
    tokens = TrainTokenizer(train="characters" if kind in CTC else "bpe", size=300)
    new = fields.NewModel(new=spec_of(kind), tokenizer=tokens)
    config, processor = initialization.files(new, Anywhere(Path()), SpeechRecognition, rows)  # type: ignore[arg-type]
    auto = loading.pick(SpeechRecognition.auto_models, config, "", "model")
    torch.manual_seed(seed)
    model = getattr(transformers, auto).from_config(config, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for norm in surgery.batch_norms(model):  # as if it had seen batches
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    model.eval().to(dtype)
    given = {"max_new_tokens": 10, **settings}
    return model, SpeechRecognition(processor, Settings(config=config, auto_model=auto, **given))


def write(folder: Path, name: str, places: range) -> str:
    lines = [json.dumps({"audio": save_sound(folder, i), "text": TEXTS[i]}) for i in places]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def save(kind: str, folder: Path, seed: int = 0) -> str:
    def write(place: Path) -> None:
        model, task = speaker(kind, seed)
        saving.save(model, task.processor, place)
        (place / sealed_model.MANIFEST).unlink()  # as somebody else's, which tests may change

    return once.make(folder, ("speaker", kind, seed), write).name


def spec(folder: Path, kind: str, method: str) -> dict[str, Any]:
    return {
        "task": "speech-recognition", "method": method, "model": save(kind, folder / "student"),
        **({"reference": save(kind, folder / "teacher", 1)} if method == "distillation" else {}),
        **({"objective": {"weight": 0.3}} if method == "cross-domain" else {}),
        "data": {"train": write(folder, "train.jsonl", range(12)), "validation": write(folder, "v.jsonl", range(4)),
                 "test": write(folder, "test.jsonl", range(4))},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "precision": "fp32"},
        "generation": {"max_new_tokens": 8}, "output": "out",
    }  # fmt: skip
