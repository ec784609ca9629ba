"""Small taggers of roles and of entities, with the rows and the recipe that they are trained by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from keeltune.data.dataset import Row
from keeltune.models import tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.semantic_role_labeling import SemanticRoleLabeling
from keeltune.tasks.task import Task
from keeltune.tasks.token_classification import TokenClassification
from tests.helpers import once

SENTENCES = [
    ("the cat eats fish in Paris .", 2, "B-ARG0 I-ARG0 B-V B-ARG1 B-ARGM-LOC I-ARGM-LOC O"),
    ("she gave him up", 1, "B-ARG0 B-V B-ARG1 B-C-V"),
    ("the man who ran ran", 3, "B-ARG0 I-ARG0 B-R-ARG0 B-V O"),
    ("the man who ran ran", 4, "B-ARG0 I-ARG0 I-ARG0 I-ARG0 B-V"),
    ("eat !", 0, "B-V O"),
    ("the fish , he said , was in Paris", 4, "B-ARG1 I-ARG1 O B-ARG0 B-V O B-C-ARG1 I-C-ARG1 I-C-ARG1"),
    ("Mary ran", 1, "B-ARG0 B-V"),
    ("he said the cat ran in the big city of Paris", 1, "B-ARG0 B-V B-ARG1" + " I-ARG1" * 8),
]
NAMES = SemanticRoleLabeling.label_inventory([tag for _, _, tags in SENTENCES for tag in tags.split()])
ENTITIES = [
    ("the cat eats fish in Paris .", "O O O O O B-LOC O"),
    ("Mary ran in the big city of Paris", "B-PER O O O O O O B-LOC"),
    ("he said Mary Ann Lee ran", "O O B-PER I-PER I-PER O"),
    ("Paris , Mary Lee , Ann", "B-LOC O B-PER I-PER O B-PER"),
    ("the man eats", "O O O"),
    ("Lee gave Ann Paris fish", "B-PER O B-PER B-LOC I-LOC"),
    ("Mary Ann ran !", "B-PER I-PER O O"),
    ("she was in big Paris", "O O O B-LOC I-LOC"),
]
ENTITY_NAMES = TokenClassification.label_inventory([tag for _, tags in ENTITIES for tag in tags.split()])
SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
             "max_position_embeddings": 64},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}  # fmt: skip
SIZES["roberta"] = {**SIZES["bert"], "type_vocab_size": 1}
SIZES["t5"] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 0.1}
SIZES["electra"] = {**SIZES["bert"], "embedding_size": 8}
ARCHITECTURES = tuple(SIZES)


def rows() -> list[Row]:
    return [
        Row({"tokens": text.split(), "predicate_index": place, "tags": tags.split()}, "f", i + 1, f"k{i}")
        for i, (text, place, tags) in enumerate(SENTENCES)
    ]


def entity_rows() -> list[Row]:
    return [
        Row({"tokens": text.split(), "tags": tags.split()}, "f", i + 1, f"k{i}")
        for i, (text, tags) in enumerate(ENTITIES)
    ]


def pieces_of(kind: str, texts: Sequence[str] = tuple(text for text, _, _ in SENTENCES)) -> Any:
    """The tokenizer class of an architecture, with a vocabulary trained on the sentences."""
    spec = TrainTokenizer(train="bpe" if kind in ("roberta", "gpt2", "t5") else "wordpiece", size=300)
    made = tokenizer_training.train(spec, list(texts), ends=True)
    if kind == "t5":
        return made
    model = json.loads(made.backend_tokenizer.to_str())["model"]
    if kind in ("roberta", "gpt2"):
        merges = [tuple(merge) for merge in model["merges"]]
        if kind == "roberta":
            return transformers.RobertaTokenizer(vocab={**model["vocab"], "<mask>": len(model["vocab"])}, merges=merges)
        return transformers.GPT2Tokenizer(
            vocab={**model["vocab"], "<|endoftext|>": len(model["vocab"])}, merges=merges, pad_token="<pad>"
        )
    names = {"distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}
    return getattr(transformers, names.get(kind, "BertTokenizer"))(vocab=model["vocab"], do_lower_case=False)


def tagger(
    architecture: str,
    seed: int = 0,
    names: list[str] = NAMES,
    kind: type[Task] = SemanticRoleLabeling,
    **settings: Any,
) -> tuple[Any, Any]:
    """(model, task) of a small random model."""
    of_roles = kind is SemanticRoleLabeling
    tokenizer = pieces_of(architecture) if of_roles else pieces_of(architecture, [text for text, _ in ENTITIES])
    head = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = transformers.AutoConfig.for_model(architecture, **SIZES[architecture], **head)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    return model, kind(tokenizer, Settings(names, **{"max_length": 60, "config": config, **settings}))


def write(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path.name


def write_entities(file: Path) -> None:
    """The sentences with entities, as lines of JSON or as CoNLL has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".conll":
        parts = (zip(row.fields["tokens"], row.fields["tags"], strict=True) for row in entity_rows())
        file.write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in part) for part in parts), encoding="utf-8")
    else:
        write(file, [row.fields for row in entity_rows()])


def folder(
    path: Path,
    architecture: str,
    seed: int = 0,
    names: list[str] = NAMES,
    kind: type[Task] = SemanticRoleLabeling,
) -> Path:
    model, task = tagger(architecture, seed, names, kind)
    model.save_pretrained(path)
    task.processor.save_pretrained(path)
    return path


def spec(path: Path, method: str, teacher: str = "roberta") -> dict[str, Any]:
    once.make(path / "student", ("tagger", "bert"), lambda place: folder(place, "bert"))
    if method == "distillation":
        reverse = list(reversed(NAMES))
        once.make(path / "teacher", ("teacher", teacher), lambda place: folder(place, teacher, seed=1, names=reverse))
    lines = [row.fields for row in rows()]
    return {
        "task": "semantic-role-labeling",
        "method": method,
        "model": "student",
        **({"reference": "teacher"} if method == "distillation" else {}),
        "data": {name: write(path / f"{name}.jsonl", lines) for name in ("train", "validation", "test")},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "precision": "fp32"},
        "output": "out",
    }
