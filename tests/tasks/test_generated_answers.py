"""Question answering by models that write: what is asked, what a row without an answer is, which model does it how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.models.configuration import writes_text
from keeltune.tasks.common.generated_answers import NO_ANSWER, GeneratedAnswers, said_answer
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.squad import best_match, english
from keeltune.tasks.question_answering import QuestionAnswering
from keeltune.training.preparation import prepare
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.chats import chat_tokenizer
from tests.helpers.readers import rows
from tests.helpers.writers import SIZES, tokenizer

QUIET = Display(quiet=True)
TALK = [
    {"question": "who was dull?", "context": "The film was", "answers": {"text": ["The film"], "answer_start": [0]}},
    {"question": "what is bad?", "context": "a plot is bad", "answers": ["a plot"]},
    {"question": "is it good?", "context": "it was in the film", "answers": {"text": [], "answer_start": []}},
    {"question": "what was long?", "context": "a very long plot", "answers": ["a plot", "plot"]},
]  # fmt: skip


def folder(path: Path, architecture: str, words: Any, auto: str) -> Path:
    """A small random model of this kind with its tokenizer."""
    sizes = {**SIZES.get(architecture, {}), "vocab_size": len(words)}
    if architecture == "bert":
        sizes |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if architecture == "llama":
        sizes |= {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "max_position_embeddings": 400}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **sizes, **ids)
    getattr(transformers, auto).from_config(config).save_pretrained(path)
    words.save_pretrained(path)
    return path


def task_of(
    words: Any, path: Path, auto: str = "AutoModelForCausalLM", **settings: Any
) -> tuple[Any, GeneratedAnswers]:
    model = getattr(transformers, auto).from_pretrained(path, dtype=torch.float32).eval()
    task = GeneratedAnswers(words, Settings(config=model.config, auto_model=auto, max_new_tokens=8, **settings))
    task.adopt(model, words)
    return model, task


def test_question_and_text_are_asked_in_the_models_template(tmp_path):
    words = chat_tokenizer("chatml")
    model, task = task_of(words, folder(tmp_path / "m", "llama", words, "AutoModelForCausalLM"))
    for row in rows():
        (example,) = task.encode(row)
        given = row.fields
        asked = (
            'Answer the question with a few words of the text. If the text does not answer it, write "unanswerable".'
            f"\n\nText:\n{given['context']}\n\nQuestion: {given['question']}"
        )
        talk = [{"role": "user", "content": asked}]
        read = words.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert example.notes["prompt"]["input_ids"] == read
        said = [*talk, {"role": "assistant", "content": (given["answers"]["text"] or [NO_ANSWER])[0]}]
        whole = words.apply_chat_template(said, return_dict=True)["input_ids"]
        assert list(example.targets) == whole[len(read) : len(read) + len(example.targets)]
        assert words.decode(example.targets[-1]) == "<|im_end|>"
    answers = task.predict(model, [task.encode_scored(row)[0] for row in rows()])
    assert task.statistics([a.value for a in answers], [task.gold(row) for row in rows()]).shape == (len(rows()), 3)


def test_a_row_without_an_answer_is_right_where_the_model_says_that_there_is_none(tmp_path, monkeypatch):
    words = chat_tokenizer("chatml")
    model, task = task_of(words, folder(tmp_path / "m", "llama", words, "AutoModelForCausalLM"))
    written = iter(["Unanswerable.", "The film", '"unanswerable"', "it is unanswerable"])
    monkeypatch.setattr(task.architecture, "text", lambda ids: next(written))
    given = rows()[:4]
    values = [p.value for p in task.predict(model, [task.encode_scored(row)[0] for row in given])]
    assert values == ["", "The film", "", "it is unanswerable"]
    assert best_match(values[0], [], english) == (1.0, 1.0)
    row = given[0]
    assert task.gold(task.with_target(row, "Unanswerable")) == []
    assert task.target(task.with_target(row, "Unanswerable")) == NO_ANSWER
    assert task.gold(task.with_target(row, "long")) == ["long"]
    assert said_answer("unanswerable questions") == "unanswerable questions"


def test_a_decoder_without_a_template_and_an_encoder_decoder_are_asked_too(tmp_path):
    words = tokenizer(ends=False)
    _, task = task_of(words, folder(tmp_path / "m", "llama", words, "AutoModelForCausalLM"))
    row = rows()[0]
    (example,) = task.encode(row)
    text = words.decode(example.notes["prompt"]["input_ids"])
    assert text.endswith("Question: who was dull?\n\nAnswer:")
    long = Row({**row.fields, "context": "dull film " * 90}, "f", 1, "k")
    (cut,) = task_of(words, tmp_path / "m", max_length=200)[1].encode(long)
    assert cut.truncated
    assert words.decode(cut.notes["prompt"]["input_ids"]).endswith("Question: who was dull?\n\nAnswer:")
    ends = tokenizer(ends=True)
    _, task = task_of(ends, folder(tmp_path / "t", "t5", ends, "AutoModelForSeq2SeqLM"), "AutoModelForSeq2SeqLM")
    (example,) = task.encode(row)
    read = ends.decode(example.inputs["input_ids"], skip_special_tokens=True)
    assert read == f"question: who was dull? context: {row.fields['context']}"
    assert not task.recipe_faults()


@pytest.mark.parametrize(
    ("kind", "auto", "writes"),
    [
        ("llama", "AutoModelForCausalLM", True),
        ("llama", "AutoModelForQuestionAnswering", False),
        ("t5", "AutoModelForSeq2SeqLM", True),
        ("t5", "AutoModelForQuestionAnswering", False),
        ("bert", "AutoModelForMaskedLM", False),
        ("bert", "AutoModel", False),
        ("gpt2", "AutoModelForCausalLM", True),
        ("xlnet", "AutoModelForCausalLM", False),
    ],
)
def test_the_models_kind_chooses(kind, auto, writes):
    config = transformers.AutoConfig.for_model(kind)
    config.architectures = [getattr(transformers, auto)._model_mapping[type(config)].__name__]
    assert writes_text(config) is writes
    assert QuestionAnswering.for_model(config) is (GeneratedAnswers if writes else QuestionAnswering)


def spec(path: Path, model: str, **fields: Any) -> dict[str, Any]:
    (path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in TALK), encoding="utf-8")
    return {"task": "question-answering", "method": "fine-tuning", "model": model, "output": "out",
            "data": {"train": "rows.jsonl", "test": "rows.jsonl"},
            "training": {"epochs": 70, "batch_size": 4, "learning_rate": 8e-3, "precision": "fp32"},
            **fields}  # fmt: skip


def test_a_run_learns_to_answer_and_to_say_that_there_is_no_answer(tmp_path):
    words = chat_tokenizer("chatml")
    folder(tmp_path / "m", "llama", words, "AutoModelForCausalLM")
    given = spec(tmp_path, "m", generation={"max_new_tokens": 24})
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    scores = run.result["metrics"]["test"]
    assert scores["exact_match"] == 1.0
    assert scores["f1"] == 1.0
    lines = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]
    assert [line["prediction"] for line in lines] == ["The film", "a plot", "", "a plot"]
    assert run.result["metrics"]["before"]["test"]["f1"] < 1.0  # zero-shot
    bare = kt.evaluate(run.model, tmp_path / "rows.jsonl", task="question-answering", display=QUIET)
    assert bare["metrics"]["exact_match"] == 1.0


def test_what_is_for_the_other_kind_is_refused_with_the_models_name(tmp_path):
    words = tokenizer(ends=False)
    folder(tmp_path / "b", "bert", words, "AutoModelForMaskedLM")
    given = spec(tmp_path, "b", prompt="{question} {context}", generation={"max_new_tokens": 24})
    with pytest.raises(UserError) as refused:
        prepare.prepare(recipe.from_dict(given, tmp_path))
    found = {p.field: p for p in refused.value.problems}
    assert {"prompt", "generation", "answers"} <= found.keys()
    assert "BertForMaskedLM" in found["prompt"].expected
    assert found["answers"].kind == "no places"  # extractive: an answer has a place


def test_a_flag_that_contradicts_the_answers_is_a_fault():
    row = Row({**rows()[0].fields, "is_impossible": True}, "f", 1, "k")
    assert [fault.field for fault in GeneratedAnswers.faults(row)] == ["is_impossible"]
    assert not list(GeneratedAnswers.faults(row, labelled=False))
