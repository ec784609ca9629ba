"""What students of 7 B and 70 B need with the cached answers of a teacher of 405 B: `keeltune check --plan`, from
configurations that this script writes. No weight is there.

    python benchmarks/cluster_plan.py OUT [--plan 8xH100] [--student 7b]

The sizes are those that Llama's publications state (https://arxiv.org/abs/2307.09288, table 1;
https://arxiv.org/abs/2407.21783, table 3), one vocabulary of 128,256; the rows are made, of 4,096 tokens each, 4,000 of
which are learnt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from keeltune import recipe
from keeltune.cli.recipe_check import check_recipe
from keeltune.utils.terminal import Terminal

SIZES = {  # width, width of the feed-forward layers, layers, heads, heads of keys and values
    "7b": (4096, 11008, 32, 32, 32),
    "70b": (8192, 28672, 80, 64, 8),
    "405b": (16384, 53248, 126, 128, 8),
}
VOCABULARY = 128_256
ROWS = 64
ANSWER = 4000


def write_model(folder: Path, size: str) -> None:
    """A configuration and a tokenizer of whole words: what is looked at."""
    width, inner, layers, heads, pairs = SIZES[size]
    words = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, **{f"w{i}": 4 + i for i in range(1000)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=4096, **names)
    fast.save_pretrained(folder)
    LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=pairs, vocab_size=VOCABULARY, max_position_embeddings=4096, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip


def write(folder: Path, student: str) -> dict[str, object]:
    """A project and its recipe."""
    for size in {student, "405b"}:
        write_model(folder / size, size)
    rows = [
        {"prompt": " ".join(f"w{(n * 7 + i) % 1000}" for i in range(95)),
         "completion": " ".join(f"w{(n * 13 + i * 3) % 1000}" for i in range(ANSWER))}
        for n in range(ROWS)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": "text-generation", "method": "distillation", "model": student, "prompt": "{prompt}",
        "reference": {"model": "405b", "from": "cached", "form": "hidden", "held": "bf16"},
        "data": {"train": "train.jsonl", "validation": None}, "output": "out", "max_length": 4096,
        "training": {"batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1e-5, "epochs": 1},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plan", default="8xH100")
    parser.add_argument("--student", choices=sorted(SIZES), default="7b")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    spec = recipe.from_dict(write(options.out, options.student), options.out)
    check_recipe(spec, Terminal(), options.plan)


if __name__ == "__main__":
    main()
