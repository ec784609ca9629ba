"""Small extractive readers, with the rows and the recipe that they are trained by."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import AutoModelForQuestionAnswering

from keeltune.data.dataset import Row, row_key
from keeltune.models import initialization, tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.question_answering import QuestionAnswering
from tests.helpers import once

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "mpnet", "bart", "t5")
TEXTS = [
    ("who was dull?", "The film was long, and Ann Lee was dull.", "Ann Lee"),
    ("what was long?", "The film was long, and Ann Lee was dull.", "The film"),
    ("when was it?", "It was in the year 1990, in a small town, " + "and it was very long " * 6 + "and dull.", "1990"),
    ("what came last?", "A plot and a plot and " * 8 + "then a café came, the last of it all.", "a café"),
    ("where was Bob?", "Ann Lee was here and Bob was not.", ""),
    ("who was not here?", "Ann Lee was here and Bob was not.", "Bob"),
    ("how long was it?", "very very long", "very very long"),
    ("is it good?", "It is not good, it is 3,000 times bad - so bad!", "3,000 times bad"),
]


def row_of(question: str, context: str, *answers: str, **more: Any) -> Row:
    starts = [context.index(answer) for answer in answers]
    fields = {"question": question, "context": context, "answers": {"text": list(answers), "answer_start": starts}}
    return Row(fields | more, "f", 1, row_key(fields, list(fields)))


def rows(answered: bool = False) -> list[Row]:
    return [row_of(q, c, *([a] if a else [])) for q, c, a in TEXTS if a or not answered]


@cache
def tokenizer_of(architecture: str) -> Any:
    """A tokenizer as the architecture has it: WordPiece with or without segments, bytes (RoBERTa), unigrams (T5)."""
    texts = [part for one in TEXTS for part in one]
    if architecture in ("roberta", "bart"):
        made = tokenizers.ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        made.train_from_iterator(texts, vocab_size=340, special_tokens=special, show_progress=False)
        model = json.loads(made._tokenizer.to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=64)
    if architecture == "t5":
        made = tokenizer_training.train(TrainTokenizer(train="unigram", size=200), texts, ends=True)
        made.model_max_length = 64
        return made
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<mask>"]
    pieces = tokenizers.BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, vocab_size=120, special_tokens=special, show_progress=False)
    name = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra", "mpnet": "MPNet"}[architecture]
    vocabulary = pieces.get_vocab()
    return getattr(transformers, f"{name}Tokenizer")(vocab=vocabulary, model_max_length=64)


SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2,
           "initializer_factor": 0.1},
}  # fmt: skip
SIZES |= dict.fromkeys(("roberta", "mpnet"), SIZES["bert"]) | {"electra": {**SIZES["bert"], "embedding_size": 16}}


def reader(architecture: str, seed: int = 0, max_length: int | None = 32) -> tuple[Any, QuestionAnswering]:
    """(model, task) of a small random model of this architecture."""
    tokenizer = tokenizer_of(architecture)
    config = transformers.AutoConfig.for_model(architecture, **SIZES[architecture], max_position_embeddings=80)
    initialization._fit_vocabulary(config, tokenizer, {})
    torch.manual_seed(seed)
    model = AutoModelForQuestionAnswering.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    settings = Settings(max_length=max_length, config=config, auto_model="AutoModelForQuestionAnswering")
    return model.eval(), QuestionAnswering(tokenizer, settings)


def write(path: Path, those: list[Row]) -> str:
    path.write_text("".join(json.dumps(row.fields) + "\n" for row in those), encoding="utf-8")
    return path.name


def folder_of(folder: Path, architecture: str, seed: int) -> None:
    model, task = reader(architecture, seed)
    model.save_pretrained(folder)
    task.tokenizer.save_pretrained(folder)


def spec(folder: Path, method: str, architecture: str = "bert") -> dict[str, Any]:
    for seed, name in enumerate(("student", "teacher") if method == "distillation" else ("student",)):
        once.make(
            folder / name,
            ("reader", architecture, seed),
            lambda place, seed=seed: folder_of(place, architecture, seed),  # type: ignore[misc]
        )
    return {
        "task": "question-answering",
        "method": method,
        "model": "student",
        **({"reference": "teacher"} if method == "distillation" else {}),
        "data": {name: write(folder / f"{name}.jsonl", rows()) for name in ("train", "validation", "test")},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "max_length": 32,
        "output": "out",
    }
