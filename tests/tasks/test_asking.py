"""What a decoder is asked, and how it answers: tokens, loss, gradient and text of a direct use of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.data.dataset import Row
from keeltune.models import tokenizer_training
from keeltune.recipe.model_fields import TrainTokenizer
from keeltune.tasks.common.continuation import continued, opened
from keeltune.tasks.common.prompt import TAUGHT
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from keeltune.utils.registry import find
from tests.helpers.chats import chat_tokenizer
from tests.helpers.writers import PAIRS, writer

QUIET = Display(quiet=True)
FIELDS = {"summarization": ("document", "summary"), "translation": ("source", "target")}
ASKED = {
    "summarization": "Summarize the following text.\n\n{}",
    "translation": "Translate the following text from English to German.\n\n{}",
}
SUBJECT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Name it: a dull film"},
    {"role": "assistant", "content": "dull"},
    {"role": "user", "content": "Name it: {document} ({style})"},
]


def chat_model(kind: str, task: str, **settings: Any) -> tuple[Any, Any]:
    """A small Llama in float64 whose tokenizer has a chat template of this kind."""
    words = chat_tokenizer(kind)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": len(words), "max_position_embeddings": 512}  # fmt: skip
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = transformers.AutoConfig.for_model("llama", **sizes, **ids)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():  # fresh weights are so small that no input matters
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    _, base = writer("llama", task=task, **settings)
    built = find("tasks", task)(words, replace(base.settings, config=config, stored=model.generation_config))
    built.adopt(model, words)
    return model, built


def rows(task: str) -> list[Row]:
    names = FIELDS[task]
    return [Row(dict(zip(names, pair, strict=True)), "f", i + 1, f"k{i}") for i, pair in enumerate(PAIRS)]


@pytest.mark.parametrize(("kind", "task"), [("chatml", "summarization"), ("llama-3", "translation")])
def test_loss_and_gradient_are_those_of_transformers_on_its_own_conversation(kind, task):
    """`apply_chat_template` of question and answer, the labels of the question masked."""
    model, ours = chat_model(kind, task, languages=("en", "de") if task == "translation" else None)
    words, given = ours.tokenizer, rows(task)
    batch = ours.collate([ours.encode(row)[0] for row in given])
    loss = ours.cross_entropy(ours.rows(ours.forward(model, batch), batch), batch)
    n = ours.counts(batch)[0]
    (loss / n).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total, counted = torch.zeros((), dtype=torch.float64), 0
    for row in given:
        source, answer = (row.fields[name] for name in FIELDS[task])
        asked = [{"role": "user", "content": ASKED[task].format(source)}]
        said = [*asked, {"role": "assistant", "content": answer}]
        prompt = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = words.apply_chat_template(said, return_dict=True)["input_ids"]
        end = 1 + max(i for i, token in enumerate(whole) if token in ours.chat.ends)  # without a line break behind it
        assert whole[: len(prompt)] == prompt
        ids = torch.tensor([whole[:end]])
        labels = torch.where(torch.arange(end) < len(prompt), -100, ids)
        out = model(input_ids=ids, labels=labels)  # whose own loss is float32
        own = torch.nn.functional.cross_entropy(out.logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
        assert own.item() / (end - len(prompt)) == pytest.approx(out.loss.item(), rel=1e-5)
        total, counted = total + own, counted + end - len(prompt)
    (total / counted).backward()
    assert n == counted
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "task"), [("chatml", "summarization"), ("llama-3", "translation")])
def test_greedy_text_is_that_of_generate_on_the_template(kind, task):
    model, ours = chat_model(kind, task, languages=("en", "de") if task == "translation" else None)
    words, given = ours.tokenizer, rows(task)[:3]
    written = ours.predict(model, [ours.encode_scored(row, labelled=False)[0] for row in given])
    ids = ours.architecture.written(model, [ours.encode_scored(row, labelled=False)[0] for row in given], "cpu")
    for row, answer, line in zip(given, written, ids, strict=True):
        asked = [{"role": "user", "content": ASKED[task].format(row.fields[FIELDS[task][0]])}]
        read = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        out = model.generate(**read, max_new_tokens=12, do_sample=False)[0, read["input_ids"].shape[1] :].tolist()
        assert ours.architecture.until_the_end(line) == ours.architecture.until_the_end(out)
        assert answer.value == words.decode(out, skip_special_tokens=True).strip()


def trained(kind: str, texts: list[str]) -> Any:
    """A tokenizer of this kind; "bytes" as GPT-2 and SmolLM2 have it, whose words hold the blank before them."""
    if kind != "bytes":
        return tokenizer_training.train(TrainTokenizer(train=kind, size=300), texts, ends=False)
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 400, "initial_alphabet": alphabet, "special_tokens": ["<|im_start|>", "<|im_end|>"]}
    inner.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(**options, show_progress=False))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "wordpiece"])
@pytest.mark.parametrize(
    ("prompt", "between"),
    [("is it good?", " "), ("the film:", " "), ("the film: ", " "), ("the film:\n", ""), ("the film\n\n", "")],
)
def test_an_answer_begins_as_it_does_in_running_text(kind, prompt, between):
    """The first token of a target behind "Summary:" has a blank in it, which a model from such texts writes there."""
    texts = [f"{text}: {text}?\n\n{text}" for pair in PAIRS for text in pair]
    words = trained(kind, texts)
    whole = words(opened(prompt) + between + "good plot", add_special_tokens=False)["input_ids"]
    read = words(opened(prompt), add_special_tokens=False)["input_ids"]
    assert [*read, *continued(words, prompt, "good plot")] == whole


def test_blanks_stand_where_readers_set_them():
    words = trained("bytes", [f"{text}:" for pair in PAIRS for text in pair])

    def behind(prompt: str, answer: str) -> str:
        return words.decode(continued(words, prompt, answer))

    assert behind("Zusammenfassung:", "gut") == " gut"
    assert behind("摘要：", "good") == "good"
    assert behind("Summary:", "很好") == "很好"
    assert behind("Summary: ", "很好") == " 很好"  # the recipe's own blank
    assert behind("Summary:", "\nbad") == "\nbad"
    assert behind("is it<|im_start|>", "bad") == "bad"
    assert "<|im_end|>" not in [words.decode([i]) for i in continued(words, "a:", "bad<|im_end|>")]


def test_a_model_without_a_template_reads_the_instruction_and_a_cue():
    _, task = writer("gpt2", task="translation", languages=("en", "deu_Latn"))
    (example,) = task.encode(rows("translation")[0])
    text = task.tokenizer.decode(example.notes["prompt"]["input_ids"])
    assert text == "Translate the following text from English to German.\n\nthe film is good\n\nTranslation:"
    assert task.tokenizer.decode(example.targets[:-1]).strip() == "der Film ist gut"
    assert not task.recipe_faults()


def test_a_prompt_may_be_messages():
    words = chat_tokenizer("chatml")
    _, task = chat_model("chatml", "summarization", prompt=SUBJECT)
    assert not task.recipe_faults()
    given = Row({"document": "the film{x}", "summary": "bad", "style": 5}, "rows.jsonl", 3, "k")
    (example,) = task.encode(given)
    said = [*SUBJECT[:-1], {"role": "user", "content": "Name it: the film{x} (5)"}]
    asked = words.apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert example.notes["prompt"]["input_ids"] == asked
    assert words.decode(example.targets) == "bad<|im_end|>"
    with pytest.raises(UserError, match="style"):
        task.encode(Row({"document": "the film", "summary": "bad"}, "rows.jsonl", 3, "k"))
    _, long = chat_model("chatml", "summarization", prompt=SUBJECT, max_length=140)
    (cut,) = long.encode(Row({**given.fields, "document": "dull film " * 60}, "rows.jsonl", 3, "k"))
    assert cut.truncated
    assert len(cut.inputs["input_ids"]) <= 140
    assert "dull (5)<|im_end|>" in words.decode(cut.notes["prompt"]["input_ids"])
    assert cut.notes["prompt"]["input_ids"][-5:] == asked[-5:]
    leak = [{"role": "user", "content": "{document} {summary}"}]
    assert [f.kind for f in chat_model("chatml", "summarization", prompt=leak)[1].recipe_faults()] == ["a label"]
    plain = writer("llama", task="summarization", prompt=SUBJECT)[1]  # no template: in lines <|role|>
    (example,) = plain.encode(given)
    assert "<|user|>\nName it: the film{x} (5)\n<|assistant|>\n" in plain.tokenizer.decode(example.inputs["input_ids"])
    assert [f.kind for f in writer("t5", task="summarization", prompt=SUBJECT)[1].recipe_faults()] == [
        "messages not read"
    ]


def test_messages_ask_for_rows_of_instructions_too():
    _, task = chat_model("chatml", "text-generation", prompt=[{"role": "user", "content": "Say: {prompt}"}])
    (example,) = task.encode(Row({"prompt": "is it", "completion": "bad"}, "f", 1, "k"))
    asked = [{"role": "user", "content": "Say: is it"}]
    read = task.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert example.notes["prompt"]["input_ids"] == read
    assert task.tokenizer.decode(example.targets) == "bad<|im_end|>"
    with pytest.raises(UserError, match="one of them"):
        task.encode(Row({"messages": [*asked, {"role": "assistant", "content": "b"}]}, "f", 1, "k"))


@pytest.mark.parametrize(
    "prompt",
    [
        SUBJECT[:3],
        [SUBJECT[3], SUBJECT[0]],
        [SUBJECT[2], SUBJECT[3]],
        [{"role": "tool", "content": "{document}"}],
        [{"role": "user", "content": ""}],
        [{"role": "user"}],
        [],
    ],
)
def test_messages_that_ask_for_nothing_are_refused(tmp_path, prompt):
    given = {"task": "summarization", "method": "fine-tuning", "model": "m", "output": "out", "data": {"train": "r"}}
    with pytest.raises(UserError) as refused:
        recipe.from_dict({**given, "prompt": prompt}, tmp_path)
    assert all(problem.field.startswith("prompt") for problem in refused.value.problems)


def test_a_model_is_asked_wherever_it_is_used_as_it_was_taught(tmp_path):
    """The prompt is saved with the model: without its run's recipe it answers the same."""
    model, task = chat_model("chatml", "summarization")
    model.float().save_pretrained(tmp_path / "student")
    task.tokenizer.save_pretrained(tmp_path / "student")
    lines = [json.dumps({"document": a, "summary": b, "style": "s"}) for a, b in PAIRS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    given = {"task": "summarization", "method": "fine-tuning", "model": "student", "output": "out",
             "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 8},
             "prompt": SUBJECT,
             "training": {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}}  # fmt: skip
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    loss, zero_shot = (part["test"]["loss"] for part in (run.result["metrics"], run.result["metrics"]["before"]))
    assert loss < zero_shot
    assert recipe.load(run.folder / "recipe.yaml").asked == SUBJECT
    whole = kt.evaluate(run.folder, tmp_path / "rows.jsonl", display=QUIET)["metrics"]
    bare = kt.evaluate(run.model, tmp_path / "rows.jsonl", task="summarization", display=QUIET)["metrics"]
    assert whole["loss"] == pytest.approx(loss, rel=1e-6)
    assert bare["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    "kept",
    [
        {"task": "Translation", "prompt": "x {document}"},
        {"task": "Summarization", "prompt": "{summary} {document}"},
        {"task": "Summarization", "prompt": "{document"},
        {"task": "Summarization", "prompt": [{"role": "user"}]},
        {"task": "Summarization", "prompt": [5]},
        {"task": "Summarization", "prompt": 5},
        "x",
    ],
)
def test_a_prompt_of_a_folder_that_is_none_is_not_read(kept):
    model, task = chat_model("chatml", "summarization")
    setattr(model.config, TAUGHT, kept)
    other = type(task)(task.processor, task.settings)
    assert other.settings.config is model.config
    assert other.given_prompt is None
    setattr(model.config, TAUGHT, {"task": "Summarization", "prompt": "Sum: {document}"})
    assert type(task)(task.processor, task.settings).given_prompt == "Sum: {document}"
