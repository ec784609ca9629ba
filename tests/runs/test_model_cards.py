"""The programs of model cards, taken out of the written cards and run where keeltune cannot be imported, answer as
keeltune does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

import keeltune as kt
from keeltune.utils import registry
from keeltune.utils.progress import Display
from tests.helpers import cards, chats, families, models, runs, speakers, whispers, writers

QUIET = Display(quiet=True)

SHORT = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-5, "precision": "fp32"}
"""So little that random weights go on answering each row otherwise."""


def train(folder: Path, spec: dict[str, Any], *, stirred: bool = True, **changes: Any) -> Path:
    if stirred:
        stir(folder / "student")
    data = {"train": "rows.jsonl", **changes.pop("data", {})}
    spec = {**spec, "output": "out", **changes, "data": data}
    spec["training"] = {**spec.get("training", {}), **SHORT}
    return kt.train(kt.recipe.from_dict(spec, folder), display=QUIET).folder


def stir(model: Path) -> None:
    """Random weights so large that what is read matters for what is answered."""
    weights, generator = load_file(model / "model.safetensors"), torch.Generator().manual_seed(1)
    for name, weight in sorted(weights.items()):
        if weight.dim() == 2 and weight.is_floating_point():
            weight += (0.8 if re.search(r"encoder_attn|EncDec|cross", name) else 0.2) * torch.randn(
                weight.shape, generator=generator
            )
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def of_family(task: str, architecture: str, folder: Path, **changes: Any) -> Path:
    return train(folder, families.spec(folder, task, architecture, "fine-tuning"), **changes)


def with_rows(rows: list[dict[str, Any]], task: str, architecture: str, folder: Path, **changes: Any) -> Path:
    spec = families.spec(folder, task, architecture, "fine-tuning")
    families.write_lines(folder / "rows.jsonl", rows)
    roomier(folder / "student")
    return train(folder, spec, **changes)


def roomier(model: Path) -> None:
    """A small decoder without a table of places reads longer prompts, too."""
    config = json.loads((model / "config.json").read_text())
    if config["model_type"] == "llama":
        (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))


def chat(architecture: str, rows: list[dict[str, Any]], folder: Path, task: str = "text-generation") -> Path:
    """A decoder with a chat template."""
    model, made = writers.writer(architecture, task=task)
    words = chats.chat_tokenizer("chatml")
    model.resize_token_embeddings(len(words))
    made.processor = words
    writers.folder_of(model, made, folder / "student")
    families.write_lines(folder / "rows.jsonl", rows)
    roomier(folder / "student")
    spec = {"task": task, "method": "fine-tuning", "model": "student", "generation": {"max_new_tokens": 5}}
    return train(folder, spec)


def whisper(folder: Path) -> Path:
    """With Whisper's own tokenizer, of several languages, of which the recipe names one."""
    whispers.save(folder / "student", multilingual=True)
    speakers.write(folder, "rows.jsonl", range(8))
    spec = {"task": "speech-recognition", "method": "fine-tuning", "model": "student"}
    spec |= {"languages": {"source": "German", "target": "German"}, "generation": {"max_new_tokens": 6}}
    return train(folder, spec, stirred=False)


def generated_answers(architecture: str, folder: Path) -> Path:
    writers.folder_of(*writers.writer(architecture), folder / "student")
    rows = [{"question": "who is it", "context": f"it is {word} and {word}", "answers": {"text": [word],
             "answer_start": [6]}} for word in ("film", "plot", "bad", "good")]  # fmt: skip
    families.write_lines(folder / "rows.jsonl", rows)
    roomier(folder / "student")
    spec = {"task": "question-answering", "method": "fine-tuning", "model": "student"}
    return train(folder, spec, generation={"max_new_tokens": 5})


PAIRS = [{"text": a, "text_pair": b, "label": label} for (a, b), label in zip(
    [("the film", "a plot"), ("very good", "not bad"), ("it was", "in it"), ("i", "film")], ["x", "y"] * 2, strict=True
)]  # fmt: skip
SEVERAL = [{"text": row["text"], "label": [row["label"]]} for row in runs.reviews(8, seed=3)]
SAID = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in writers.PAIRS]
PROMPTS = [{"prompt": a, "completion": b} for a, b in writers.PAIRS]
ALPACA = [{"instruction": "Say it in German", "input": a, "output": b} for a, b in writers.PAIRS]
DOCUMENTS = [{"document": a, "summary": b, "title": "film"} for a, b in writers.PAIRS]
ASKED = "Say shortly what {title} says:\n{document}\n\nSo: "

CASES: dict[str, Callable[[Path], Path]] = {
    "text-classification bert": partial(of_family, "text-classification", "bert"),
    "text-classification gpt2": partial(of_family, "text-classification", "gpt2", max_length=6),
    "text-classification pairs": partial(with_rows, PAIRS, "text-classification", "bert"),
    "text-classification several": partial(
        with_rows, SEVERAL, "text-classification", "roberta", data={"multi_label": True}
    ),
    "sentiment-analysis": partial(of_family, "sentiment-analysis", "distilbert"),
    "semantic-role-labeling bert": partial(of_family, "semantic-role-labeling", "bert"),
    "semantic-role-labeling gpt2": partial(of_family, "semantic-role-labeling", "gpt2"),
    "question-answering bert": partial(of_family, "question-answering", "bert"),
    "question-answering roberta": partial(of_family, "question-answering", "roberta", max_length=None),
    "question-answering written t5": partial(generated_answers, "t5"),
    "question-answering written llama": partial(generated_answers, "llama"),
    "translation bart": partial(of_family, "translation", "bart", generation={"max_new_tokens": 6, "beams": 2}),
    "translation m2m_100": partial(of_family, "translation", "m2m_100"),
    "translation t5": partial(of_family, "translation", "t5"),
    "translation marian": partial(of_family, "translation", "marian", prompt="to German: {source}"),
    "summarization bart": partial(of_family, "summarization", "bart", max_length=8),
    "summarization llama": partial(with_rows, DOCUMENTS, "summarization", "llama", prompt=ASKED,
                                   generation={"max_new_tokens": 5}),
    "text-generation gpt2": partial(of_family, "text-generation", "gpt2"),
    "text-generation alpaca": partial(with_rows, ALPACA, "text-generation", "llama", generation={"max_new_tokens": 5}),
    "text-generation chat": partial(chat, "llama", SAID),
    "text-generation chat of prompts": partial(chat, "llama", PROMPTS),
    "text-generation without a template": partial(with_rows, SAID, "text-generation", "llama",
                                                  generation={"max_new_tokens": 5}),
    "summarization chat": partial(chat, "llama", DOCUMENTS, task="summarization"),
    "image-captioning pair": partial(of_family, "image-captioning", "vit gpt2"),
    "image-captioning git": partial(of_family, "image-captioning", "git"),
    "image-captioning llava": partial(of_family, "image-captioning", "llava"),
    "speech-recognition whisper": whisper,
    "speech-recognition whisper of other words": partial(of_family, "speech-recognition", "whisper"),
    "speech-recognition moonshine": partial(of_family, "speech-recognition", "moonshine"),
    "speech-recognition wav2vec2": partial(of_family, "speech-recognition", "wav2vec2"),
}  # fmt: skip
CASES |= {
    task: partial(of_family, task, families.family_of(task).architectures[0])
    for task in sorted({*registry.names("tasks")} - {case.split()[0] for case in CASES})
}

ADAPTED = {
    "text-classification bert": {"rank": 2},
    "semantic-role-labeling bert": {"rank": 2, "rslora": True},
    "translation bart": {"rank": 2},
    "text-generation gpt2": {"rank": 2, "dora": True},
}
"""Trained as adapters too."""

WIDE = {
    "semantic-role-labeling gpt2", "semantic-role-labeling bert adapter", "question-answering roberta",
    "question-answering written t5", "translation t5", "translation bart adapter", "text-generation chat of prompts",
    "text-generation without a template", "summarization bart", "speech-recognition whisper of other words",
}  # fmt: skip
"""Whose programs others have but for the model's class, which stock transformers chooses."""


def adapter_of(case: str, folder: Path) -> Path:
    task, architecture = case.split(" ", 1)
    spec = families.spec(folder, task, architecture, "fine-tuning")
    return train(folder, {**spec, "training": {"lora": ADAPTED[case]}})


def rows_for(run: Path, card: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows as a card's program reads them, and keeltune's answers to them: of the card's own row, and of rows of the
    data with the same columns. Pictures and recordings are those of the data."""
    own, data = cards.row_of(card), runs.lines(run.parent / "rows.jsonl")[:2]
    if kind := next((name for name in ("image", "audio") if name in own), None):
        answers = kt.predict(run, run.parent / "rows.jsonl", display=QUIET)[:2]
        return [{**own, kind: str(run.parent / row[kind])} for row in data], answers
    for row in data:
        if "messages" in row:
            row["messages"] = row["messages"][:1]
    rows = [own, *({name: row[name] for name in own} for row in data)]
    return rows, kt.load(run)(rows)


def answered(tmp_path: Path, wide: bool) -> dict[str, tuple[list[Any], list[Any], Path]]:
    """Of each case keeltune's answers and its program's, all of them in one process, and the folder of the card."""
    asked, expected = {}, {}
    made = {name: (make, "model") for name, make in CASES.items()}
    made |= {f"{name} adapter": (partial(adapter_of, name), "adapter") for name in ADAPTED}
    assert set(made) > WIDE
    for name, (make, kind) in made.items():
        if (name in WIDE) != wide:
            continue
        folder = tmp_path / name
        folder.mkdir()
        run = make(folder)
        rows, expected[name] = rows_for(run, run / kind)
        asked[name] = (run / kind, rows)
    found = cards.answers(list(asked.values()))
    return {n: (expected[n], told, asked[n][0]) for n, told in zip(asked, found, strict=True)}


@pytest.mark.slow  # some thirty models are trained, two steps each, and read again in a process of its own
@pytest.mark.parametrize("wide", [False, pytest.param(True, marks=pytest.mark.wide)])
def test_a_cards_program_answers_as_keeltune_does(tmp_path, wide):
    """One test for all: what they have in common takes a minute, which each worker would need for its share of them."""
    for case, (expected, told, folder) in answered(tmp_path, wide).items():
        predictions = [row["prediction"] for row in expected]
        if isinstance(told[0], dict):
            assert [answer["label"] for answer in told] == predictions, case
            for row, answer in zip(expected, told, strict=True):
                assert answer["score"] == pytest.approx(row["probabilities"][answer["label"]], abs=1e-5), case
        elif isinstance(told[0], float):
            assert told == pytest.approx(predictions, rel=1e-5), case
        else:
            assert told == predictions, case
        assert "keeltune" not in cards.program_of(folder), case


# What a card says


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny) -> Path:
    folder = runs.make_data(tmp_path_factory.mktemp("said"))
    return runs.train(runs.spec_of("fine-tuning", tiny("bert")), folder).folder


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def read_yaml(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text))


def head_of(folder: Path) -> dict[str, Any]:
    return read_yaml((folder / "README.md").read_text("utf-8").split("---")[1])


def test_the_head_is_what_the_hub_takes(run):
    card = card_of(run / "model")
    data = card.data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.tags == ["keeltune", "sentiment-analysis", "fine-tuning"]
    metrics = json.loads((run / "result.json").read_text())["metrics"]["test"]
    told = {(r.metric_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert told[("Accuracy", "accuracy")] == pytest.approx(metrics["accuracy"], abs=1e-6)
    assert told[("Macro F1", "f1")] == pytest.approx(metrics["macro_f1"], abs=1e-6)
    assert {r.dataset_split for r in data.eval_results} == {"test"}
    assert all(r.task_type == "text-classification" and r.dataset_name == "test rows" for r in data.eval_results)
    assert ModelCardData(**read_yaml(data.to_yaml())).to_yaml() == data.to_yaml()


def test_what_nobody_knows_is_left_out(run):
    head = head_of(run / "model")
    assert not head.keys() & {"base_model", "license", "datasets", "language"}
    assert "a local folder, of which no published name is known" in (run / "model" / "README.md").read_text("utf-8")


def test_no_path_and_no_word_of_the_data_stands_in_a_card(run):
    text = (run / "model" / "README.md").read_text("utf-8")
    assert str(run.parent) not in text
    assert "train.jsonl" not in text
    assert not any(row["text"] in text for row in runs.lines(run.parent / "train.jsonl"))
    for heading in ("## Use", "## Training", "## Scores", "## Limits"):
        assert heading in text
    assert "was not measured" in text


def test_base_licence_data_sets_and_language_are_those_that_are_known(tmp_path, tiny, monkeypatch):
    base = tmp_path / "models--someone--base" / "snapshots" / "0123abc"
    models.save_tiny(base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n# base\n")
    folder = runs.make_data(tmp_path)
    first = runs.train(runs.spec_of("fine-tuning", base), folder)
    head = head_of(first.model)
    assert head["base_model"] == "someone/base"
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", "own", "LICENSE")
    second = runs.train(runs.spec_of("fine-tuning", first.folder, output="second"), folder)
    head = head_of(second.model)  # by way of a folder: the nearest that is published
    assert (head["base_model"], head["license"]) == ("someone/base", "other")
    assert "base model: someone/base" in (second.model / "README.md").read_text("utf-8")


def test_a_licence_of_the_configuration_is_taken_and_none_is_made_up(tmp_path, tiny):
    from keeltune.reports.card.origin import origin

    folder = models.save_tiny(tmp_path / "base")
    assert origin(str(folder)).license == {}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "license": "apache-2.0"}))
    assert origin(str(folder)).license == {"license": "apache-2.0"}
    (folder / "README.md").write_text("---\nlicense: [not, one]\n---\n")
    assert origin(str(folder)).license == {"license": "apache-2.0"}
    (folder / "README.md").write_text("---\n: [broken\n---\n")
    assert origin(str(folder)) == origin(str(folder))
    assert origin(None).base is None


def test_names_of_the_hub_and_languages(tmp_path, tiny):
    from keeltune.reports.card import metadata

    values = runs.spec_of("distillation", tiny("bert"), reference=str(tiny("bert")))
    values["data"] = {"train": "hub:stanfordnlp/sst2@main:default", "unlabeled": "hub:imdb", "test": "test.jsonl"}
    recipe = kt.recipe.from_dict(values, tmp_path)
    assert metadata.datasets(recipe) == ["stanfordnlp/sst2", "imdb"]
    for by, expected in (("named", ["de"]), ("detected", ["de"]), ("assumed", [])):
        assert metadata.languages(recipe, {"scoring": {"target": {"language": "de-Latn", "by": by}}}) == expected
    values |= {"task": "translation", "languages": {"source": "eng_Latn", "target": "German"}}
    assert metadata.languages(kt.recipe.from_dict(values, tmp_path), {}) == ["en", "de"]


def test_an_adapters_card_is_its_own(tmp_path):
    folder = adapter_of("text-classification bert", tmp_path) / "adapter"
    head = head_of(folder)
    assert head["library_name"] == "peft"
    assert {"lora", "adapter"} <= set(head["tags"])
    text = (folder / "README.md").read_text("utf-8")
    assert "This folder holds the adapter alone" in text
    assert "PeftModel" in text
    assert "adapter: LoRA, rank 2" in text
    assert str(folder.parent.parent) not in text
    assert "peft" not in (folder.parent / "model" / "README.md").read_text("utf-8").split("---")[1]


def test_limits_are_said_in_words_and_without_the_data():
    from keeltune.reports.card.limits import limits

    change = {
        "metric": "f1",
        "metrics": {"f1": {"before": 0.9, "after": 0.7, "change": -0.2, "interval": [-0.3, -0.1]}},
    }
    calibration = {"ece": 0.2, "temperature": 2.0, "bins": [[0.9, 0.5, 40], [0.6, 0.7, 10]]}
    words = [{"word": "Delta", "share": 0.9, "label": "bad", "rows": 40, "removed": {"interval": [0.5, 0.9], "flips": 3,
              "rows": 4}, "against": {"value": None, "rows": 0}}]  # fmt: skip
    group = {"value": 0.5, "interval": None, "rows": 200}
    slices = {"airline": {"gap": 0.3, "worst": "Delta", "groups": {"Delta": group}}}
    flips = {"interval": [0.02, 0.1], "flip_rate": 0.05, "rows": 90}
    bias = {"metric": "accuracy", "split": "test", "words": words, "slices": slices, "counterfactual": flips}
    said = " ".join(limits(
        {"forgetting": {"source": change, "control": None}, "bias": bias, "overfitting": {"verdict": "no sign"},
         "calibration": {"validation": calibration, "test": calibration}},
        reads=128, writes=False,
    ))  # fmt: skip
    for words_said in ("f1 went from 0.9000 to 0.7000", "-0.3000 to -0.1000", "of the column airline",
                       "5.0% of its answers", "1 were found", "overconfident", "by 2 mends", "128 tokens"):  # fmt: skip
        assert words_said in said, words_said
    assert "Delta" not in said
    under = {"ece": 0.2, "bins": [[0.5, 0.9, 10]]}
    assert "underconfident" in " ".join(limits({"calibration": {"test": under}}, reads=None, writes=False))
    assert "as they are" in " ".join(limits({"calibration": {"test": {"ece": 0.01}}}, reads=None, writes=False))


def test_texts_of_users_cannot_break_a_card():
    from keeltune.reports.card.usage import written

    for value in ('a "quote"\n```\n', {"a": True, "b": None}, ["\u202e", "é"], "null and true", 1.5):
        text = written(value)
        assert eval(text) == value
        assert "\n" not in text


def test_cards_are_one_block_of_python(run):
    assert len(re.findall("```python", (run / "model" / "README.md").read_text("utf-8"))) == 1
