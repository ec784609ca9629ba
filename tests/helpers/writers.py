"""Small random models that write, of many architectures, with the tokenizers that such models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from keeltune.data.dataset import Row
from keeltune.models import initialization, tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.task import Task
from keeltune.utils.registry import find
from tests.helpers import once

PAIRS = [
    ("the film is good", "der Film ist gut"),
    ("a very long and dull plot but not bad", "eine sehr lange und fade Handlung, aber nicht schlecht"),
    ("bad", "schlecht"),
    ("it was fine and short", "es war gut und kurz"),
    ("not good", "nicht gut"),
    ("i was in the film", "ich war im Film"),
    ("dull dull dull film of a plot", "fader fader fader Film einer Handlung"),
    ("the plot of the film is very very good", "die Handlung des Films ist sehr sehr gut"),
]
SIZES: dict[str, dict[str, Any]] = {
    "marian": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
               "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
               "max_position_embeddings": 64},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 0.1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 96},
}  # fmt: skip
SIZES |= dict.fromkeys(("bart", "mbart", "pegasus", "m2m_100"), SIZES["marian"])
SIZES |= dict.fromkeys(("mt5", "umt5"), SIZES["t5"])
SIZES |= dict.fromkeys(("mistral", "qwen2", "gemma", "olmo", "cohere"), SIZES["llama"])
SIZES |= {
    "gemma2": {**SIZES["llama"], "head_dim": 8, "final_logit_softcapping": 2.0},
    "gpt_neox": {k: v for k, v in SIZES["llama"].items() if k != "num_key_value_heads"},
    "opt": {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 96},
}  # fmt: skip
ENCODER_DECODERS = ("marian", "bart", "mbart", "pegasus", "m2m_100", "t5", "mt5", "umt5")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "gemma", "gemma2", "olmo", "cohere", "gpt_neox", "opt")


def tokenizer(*, ends: bool = True, size: int = 300) -> Any:
    texts = [text for pair in PAIRS for text in pair]
    return tokenizer_training.train(TrainTokenizer(train="bpe", size=size), texts, ends=ends)


def writer(architecture: str, seed: int = 0, task: str = "translation", **settings: Any) -> tuple[Any, Task]:
    """(model, task) of a small random model of this architecture."""
    words = tokenizer(ends=architecture in ENCODER_DECODERS)
    config = transformers.AutoConfig.for_model(architecture, **SIZES[architecture])
    initialization._fit_vocabulary(config, words, {})
    found = find("tasks", task)
    from keeltune.models import loading

    auto = loading.pick(found.auto_models, config, "", "model")
    torch.manual_seed(seed)
    model = getattr(transformers, auto).from_config(config, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    return model, found(words, Settings(config=config, auto_model=auto, max_new_tokens=12, **settings))


def rows(task: str = "translation") -> list[Row]:
    names = {"translation": ("source", "target"), "summarization": ("document", "summary"),
             "text-generation": ("prompt", "completion")}[task]  # fmt: skip
    return [Row(dict(zip(names, pair, strict=True)), "f", i + 1, f"k{i}") for i, pair in enumerate(PAIRS)]


def folder_of(model: Any, task: Task, folder: Path) -> Path:
    model.save_pretrained(folder)
    task.processor.save_pretrained(folder)
    return folder


NAMES = {
    "translation": ("source", "target"),
    "summarization": ("document", "summary"),
    "text-generation": ("prompt", "completion"),
}


def write(path: Path, task: str) -> str:
    lines = [json.dumps(dict(zip(NAMES[task], pair, strict=True))) for pair in PAIRS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def spec(folder: Path, task: str, architecture: str, method: str) -> dict:
    for seed, name in enumerate(("student", "teacher")):

        def save(place: Path, seed: int = seed) -> Path:
            return folder_of(*writer(architecture, seed=seed, task=task), place)

        once.make(folder / name, ("writer", task, architecture, seed), save)
    return {
        "task": task,
        "method": method,
        "model": "student",
        **({"reference": "teacher"} if method == "distillation" else {}),
        "data": {name: write(folder / f"{name}.jsonl", task) for name in ("train", "validation", "test")},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "generation": {"max_new_tokens": 8},
        "output": "out",
    }
