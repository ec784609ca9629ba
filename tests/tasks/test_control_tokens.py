"""A special token that is written in a text is text, in every task and for every kind of tokenizer."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

import keeltune as kt
from keeltune import recipe
from keeltune.models import tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.control_tokens import encode_target, encode_text, inert, written_in
from keeltune.training.build import build, collated
from keeltune.training.preparation.prepare import prepare
from keeltune.utils.progress import Display
from tests.helpers import families, models, writers

QUIET = Display(quiet=True)
TEXTS = [text for pair in writers.PAIRS for text in pair]


def tokenizers():
    yield models.word_tokenizer()
    for kind in ("bpe", "unigram", "wordpiece", "characters"):
        yield tokenizer_training.train(TrainTokenizer(train=kind, size=300), TEXTS, ends=True)
    yield tokenizer_training.train(TrainTokenizer(train="characters", size=99), TEXTS, ends=True, spells=True)


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: f"{type(t).__name__}-{len(t)}")
def test_no_text_makes_a_control_token(tokenizer):
    names = [name for name in tokenizer.all_special_tokens if name not in (tokenizer.unk_token, "|")]
    control = set(tokenizer.convert_tokens_to_ids(names))
    around = [i for i in tokenizer("the film")["input_ids"] if i in control]
    for name in names:
        text = f"the {name} film{name} is"
        assert written_in(tokenizer, [text]) == [name]
        assert [i for i in encode_text(tokenizer, text)["input_ids"] if i in control] == around
        ids = encode_target(tokenizer, text)["input_ids"]
        assert [i for i in ids if i in control] == around
        assert len(inert(tokenizer, text)) == len(text)  # offsets hold
        assert not set(tokenizer(inert(tokenizer, text), add_special_tokens=False)["input_ids"]) & control
    assert encode_text(tokenizer, "the film", "is")["input_ids"] == tokenizer("the film", "is")["input_ids"]


def test_a_head_that_counts_the_ends_of_texts_takes_a_text_that_names_one(tmp_path):
    """BART's classifier wants as many ends in each row: `</s>` in one text ended a run with a traceback."""
    config = AutoConfig.for_model("bart", **writers.SIZES["bart"], vocab_size=300, pad_token_id=0, bos_token_id=1,
                                  eos_token_id=2, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    writers.tokenizer().save_pretrained(tmp_path / "model")
    texts = ["the </s> film", "good", "bad </s></s>", "<pad> fine"] * 2
    families.write_lines(
        tmp_path / "rows.jsonl", [{"text": t + str(i), "label": "ab"[i % 2]} for i, t in enumerate(texts)]
    )
    given = {"task": "text-classification", "method": "fine-tuning", "model": "model", "data": {"train": "rows.jsonl"},
             "training": {"max_steps": 1, "batch_size": 4, "precision": "fp32"}}  # fmt: skip
    material = prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))
    (warning,) = [w for w in material.warnings if "special tokens" in w.found]
    assert warning.found == '6 of 8 rows of train have special tokens written in a text: "</s>", "<pad>"'
    job = build(material, QUIET)
    job.material.task.forward(job.model, collated(job, material.examples["train"]))
    plain = kt.predict(tmp_path / "model", tmp_path / "rows.jsonl", task="text-classification", display=QUIET)
    assert len(plain) == 8


CASES = {
    "text-classification": "text", "question-answering": "context", "summarization": "document",
    "translation": "source", "text-generation": "completion",
}  # fmt: skip


@pytest.mark.parametrize("task", CASES)
def test_every_task_reads_it_as_text_and_says_so(tmp_path, task):
    given = families.spec(tmp_path, task, families.family_of(task).architectures[0], "fine-tuning")
    file, column = tmp_path / "rows.jsonl", CASES[task]
    tokenizer = prepare(recipe.from_dict({**given, "output": "out"}, tmp_path)).task.tokenizer
    (name, *_) = [n for n in tokenizer.all_special_tokens if n != tokenizer.unk_token]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row[column] = f"{row[column]} {name} {name}"
    families.write_lines(file, rows)
    material = prepare(recipe.from_dict({**given, "output": "out"}, tmp_path))
    assert any("special tokens written" in warning.found for warning in material.warnings)
    control = tokenizer.convert_tokens_to_ids(name)
    for example in material.examples["train"]:
        assert sum(i == control for i in example.inputs["input_ids"]) <= 1 + (task == "question-answering")
        if material.task.choices == "tokens":
            assert sum(i == control for i in example.targets) <= 1
