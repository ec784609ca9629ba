"""Whole runs of tasks that write: each method, both kinds of model, what is saved and what it predicts."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import keeltune as kt
from keeltune import recipe
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers import wide
from tests.helpers.chats import chat_tokenizer
from tests.helpers.families import by_turns
from tests.helpers.writers import PAIRS, spec, writer

QUIET = Display(quiet=True)


CASES = [
    ("translation", "marian"), ("translation", "t5"), ("translation", "llama"),
    ("summarization", "bart"), ("summarization", "gpt2"), ("text-generation", "llama"),
]  # fmt: skip


STAND_FOR_ALL = {("translation", "marian", "cross-domain"), ("translation", "t5", "fine-tuning"),
                 ("summarization", "gpt2", "fine-tuning"), ("text-generation", "llama", "distillation")}  # fmt: skip


@pytest.mark.parametrize(("task", "architecture", "method"), wide.all_but(by_turns(CASES), STAND_FOR_ALL))
def test_a_run_trains_saves_and_predicts_the_same(tmp_path, task, architecture, method):
    """Each architecture under each method is trained in `contract/test_families`."""
    given = spec(tmp_path, task, architecture, method)
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    result = run.result
    assert result["status"] == "completed"
    before, after = result["metrics"]["before"]["test"], result["metrics"]["test"]
    if method != "distillation":
        assert after["loss"] < before["loss"]
    primary = next(iter(after))
    low, high = result["intervals"]["test"][primary]
    assert low <= after[primary] <= high
    assert (result["objective"]["divergence"] is None) == (method == "fine-tuning")
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text().splitlines()]
    again = kt.predict(run.folder, tmp_path / "test.jsonl", display=QUIET)
    assert [line["prediction"] for line in again] == [line["prediction"] for line in stored]
    assert kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)["metrics"] == pytest.approx(
        {name: value for name, value in after.items() if isinstance(value, float)}
    )
    auto = "AutoModelForSeq2SeqLM" if architecture in ("marian", "t5", "bart") else "AutoModelForCausalLM"
    stock = getattr(transformers, auto).from_pretrained(run.model, dtype=torch.float32)
    ours = transformers.AutoTokenizer.from_pretrained(run.model)
    if auto == "AutoModelForSeq2SeqLM":
        inputs = ours(PAIRS[0][0], return_tensors="pt")
        ids = stock.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                             max_new_tokens=8, num_beams=1, do_sample=False)  # fmt: skip
        assert ours.decode(ids[0], skip_special_tokens=True).strip() == stored[0]["prediction"]


def test_a_model_from_nothing_learns_and_is_loaded_by_stock_transformers(tmp_path):
    given = spec(tmp_path, "translation", "marian", "fine-tuning")
    given["model"] = {
        "new": {"model_type": "marian", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
                "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
                "decoder_ffn_dim": 64, "max_position_embeddings": 64, "dropout": 0.0},
        "tokenizer": {"train": "bpe", "size": 400},
    }  # fmt: skip
    given["training"] |= {"epochs": 120, "learning_rate": 1e-2, "batch_size": 8}
    del given["data"]["validation"]
    given["generation"] = {"max_new_tokens": 30}
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["before"]["test"] is None  # nothing was there before
    assert run.result["metrics"]["test"]["bleu"] > 80  # the training pairs by heart
    assert transformers.AutoModelForSeq2SeqLM.from_pretrained(run.model).config.vocab_size == len(
        transformers.AutoTokenizer.from_pretrained(run.model)
    )


def test_a_new_model_cannot_be_its_own_reference(tmp_path):
    given = spec(tmp_path, "translation", "marian", "cross-domain")
    given["model"] = {"new": {"model_type": "marian"}, "tokenizer": {"train": "bpe", "size": 300}}
    with pytest.raises(UserError, match="random"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


def test_a_teacher_with_other_tokens_is_refused(tmp_path):
    """Equal sizes prove nothing: two vocabularies of one size may share hardly one id."""
    given = spec(tmp_path, "translation", "marian", "distillation")
    file = tmp_path / "teacher" / "tokenizer.json"
    made = json.loads(file.read_text())
    words = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)
    words[10], words[11] = words[11], words[10]
    made["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    file.write_text(json.dumps(made))
    with pytest.raises(UserError, match="other tokens at the ids 10, 11"):
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)


def test_the_prompt_is_the_recipes_and_a_long_document_is_cut_inside_it(tmp_path):
    _, task = writer("gpt2", task="summarization", max_length=40, prompt="Say it shortly: {document} ->")
    row = kt_row("dull film " * 60, "bad")
    (example,) = task.encode(row)
    text = task.tokenizer.decode(example.notes["prompt"]["input_ids"])
    assert text.startswith("Say it shortly: dull film")
    assert text.endswith("->")
    assert example.truncated
    assert len(example.inputs["input_ids"]) <= 40
    (notice,) = task.notices([example])  # trap 21: prompt tokens trained by surprise
    assert notice.startswith(f"{len(example.targets)} of {len(example.inputs['input_ids'])} tokens")


def kt_row(document: str, summary: str):
    from keeltune.data.dataset import Row

    return Row({"document": document, "summary": summary}, "f", 1, "k")


def test_chats_train_on_what_the_assistant_says_alone(tmp_path):
    from keeltune.data.dataset import Row

    _, task = writer("llama", task="text-generation")
    task.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = [("user", "is it good"), ("assistant", "not good"), ("user", "bad"), ("assistant", "very bad")]
    row = Row({"messages": [{"role": r, "content": c} for r, c in talk]}, "f", 1, "k")
    (example,) = task.encode(row)
    ids, places = example.inputs["input_ids"], example.predicted
    trained = [ids[i + 1] for i, own in enumerate(places) if own]
    assert trained == list(example.targets)
    assert task.tokenizer.decode(trained, skip_special_tokens=False).split() == ["not", "good</s>very", "bad</s>"]
    prompt = task.tokenizer.decode(example.notes["prompt"]["input_ids"])
    assert prompt.rstrip().endswith("<assistant>")
    assert task.gold(row) == "very bad"


BROKEN = [
    ([{"role": "user", "content": "hi"}], "no answer"),
    ([{"role": "assistant", "content": "hi"}], "roles out of order"),
    ([{"role": "usr", "content": "hi"}, {"role": "assistant", "content": "x"}], "unknown role"),
    ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"},
      {"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "system first"),
]  # fmt: skip


def test_broken_chats_are_refused_with_their_row(tmp_path):
    given = spec(tmp_path, "text-generation", "llama", "fine-tuning")
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good"}]}
    lines = [good, *({"messages": messages} for messages, _ in BROKEN)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError) as refused:
        kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    for number, (_, said) in enumerate(BROKEN):
        place = f"{tmp_path / 'train.jsonl'}:{2 + number}"
        found = [p for p in refused.value.problems if p.where == place and p.field == "messages"]
        assert said in " ".join(f"{p.kind} {p.expected} {p.found}" for p in found)


def test_all_rows_without_a_prompt_are_refused_when_predicting(tmp_path):
    given = spec(tmp_path, "text-generation", "gpt2", "fine-tuning")
    lines = [
        {"id": 1},
        {"prompt": "the film"},
        {"completion": "is good"},
        {"messages": [{"role": "user", "content": "x"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError) as refused:
        kt.predict(tmp_path / given["model"], tmp_path / "rows.jsonl", task="text-generation", display=QUIET)
    assert [(p.where.rpartition(":")[2], p.field) for p in refused.value.problems] == [("1", "prompt"), ("3", "prompt")]


@pytest.mark.parametrize("architecture", wide.all_but(("t5", "gpt2", "llama"), {"t5", "gpt2"}))
def test_an_adapter_trains_is_its_own_reference_and_merges(tmp_path, architecture):
    """The reference is the model without its adapter: nothing is copied, and the vocabulary head is not trained."""
    given = spec(tmp_path, "translation", architecture, "cross-domain")
    given["training"] |= {"lora": {"rank": 4}}
    del given["data"]["validation"]
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["reference"]["kind"] == "adapter-off"
    assert run.result["objective"]["divergence"] > 0
    assert run.result["metrics"]["test"]["loss"] < run.result["metrics"]["before"]["test"]["loss"]
    assert run.result["training"]["trained_parameters"] < run.result["training"]["parameters"] / 2
    start, merged = (load_file(folder / "model.safetensors") for folder in (tmp_path / "student", run.model))
    assert merged.keys() == start.keys()
    adapter = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    facts = json.loads((run.folder / "adapter" / "adapter_config.json").read_text("utf-8"))
    adapted = {name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
               for name in adapter if name.endswith(".lora_A.weight")}  # fmt: skip
    assert {name for name in start if not start[name].equal(merged[name])} == adapted  # the head is none of them
    for name in adapted:
        a, b = (adapter[f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
        change = b @ a * facts["lora_alpha"] / facts["r"]
        torch.testing.assert_close(merged[name] - start[name], change.T if facts["fan_in_fan_out"] else change,
                                   rtol=1e-4, atol=1e-6)  # fmt: skip
    again = kt.evaluate(run.folder, tmp_path / "test.jsonl", display=QUIET)["metrics"]
    assert again["loss"] == pytest.approx(run.result["metrics"]["test"]["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", ["chatml", "deepseek", "no-end"])
def test_a_chat_model_ends_where_its_turn_ends_and_so_does_stock_generate(tmp_path, kind):
    """None of these turns ends in what the model's folder names as its end of text, which ruled the scores before."""
    words = chat_tokenizer(kind)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "vocab_size": len(words)}
    config = transformers.AutoConfig.for_model("llama", **sizes, **ids)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "student")
    words.save_pretrained(tmp_path / "student")
    talks = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in PAIRS[:4]]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks), encoding="utf-8")
    given = {"task": "text-generation", "method": "fine-tuning", "model": "student", "output": "out",
             "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 56},
             "training": {"epochs": 60, "batch_size": 4, "learning_rate": 8e-3, "precision": "fp32"}}  # fmt: skip
    run = kt.train(recipe.from_dict(given, tmp_path), display=QUIET)
    assert run.result["metrics"]["test"]["exact_match"] == 1.0
    stock = transformers.AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    ours = transformers.AutoTokenizer.from_pretrained(run.model)
    stored = [json.loads(line) for line in (run.folder / "predictions" / "test.jsonl").read_text("utf-8").splitlines()]
    for talk, line in zip(talks, stored, strict=True):
        text = ours.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
        ids = ours(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        written = stock.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=56, do_sample=False)
        assert written.shape[1] < ids.shape[1] + 56  # it stopped by itself
        assert ours.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip() == line["prediction"]
    again = kt.evaluate(run.folder, tmp_path / "rows.jsonl", display=QUIET)["metrics"]
    assert again["exact_match"] == 1.0
    assert again["loss"] == pytest.approx(run.result["metrics"]["test"]["loss"], rel=1e-5)
    bare = kt.evaluate(run.model, tmp_path / "rows.jsonl", task="text-generation", display=QUIET)["metrics"]
    assert bare["exact_match"] == 1.0
