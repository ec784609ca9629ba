"""The languages of multilingual models: every usual spelling, what is given to the decoder, and stock `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import keeltune as kt
from keeltune.models import languages
from keeltune.utils.errors import UserError
from tests.helpers.writers import PAIRS, SIZES

SPELLINGS = ("German", "de", "de_DE", "de-DE", "deu", "ger", "deu_Latn", "Deutsch")


def nllb() -> Any:
    words = transformers.NllbTokenizer()
    return words


def m2m(folder: Path) -> Any:
    spm = pytest.importorskip("sentencepiece", reason="extra: sentencepiece")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(text for pair in PAIRS for text in pair) * 4)
    spm.SentencePieceTrainer.train(input=str(texts), model_prefix=str(folder / "sp"), vocab_size=40, minloglevel=2)
    pieces = spm.SentencePieceProcessor(model_file=str(folder / "sp.model"))
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces)))]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sp.model"))


def seamless() -> Any:
    marks = ["__eng__", "__deu__", "__cmn__", "__cmn_Hant__"]
    return transformers.SeamlessM4TTokenizer(additional_special_tokens=marks)


TOKENIZERS = {
    "nllb": (lambda folder: transformers.NllbTokenizer(), "deu_Latn", "zho_Hant"),
    "mbart": (lambda folder: transformers.MBartTokenizer(), "de_DE", "zh_CN"),
    "mbart50": (lambda folder: transformers.MBart50Tokenizer(), "de_DE", "zh_CN"),
    "m2m": (m2m, "de", "zh"),
    "seamless": (lambda folder: seamless(), "deu", "cmn_Hant"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_language_is_known_by_every_usual_name(tmp_path, kind):
    make, german, taiwanese = TOKENIZERS[kind]
    known = languages.language_tokens(make(tmp_path))
    assert {languages.spelt(name, known) for name in SPELLINGS} == {german}
    assert all(languages.spelt(name, known) == name for name in known)
    assert languages.spelt("zh-TW", known) == taiwanese
    assert languages.spelt("Klingon", known) is None
    assert languages.spelt("Germn", known) is None
    assert languages.nearest_language("Germn", known) == '; did you mean "German"?'


def model_of(words: Any, kind: str, folder: Path) -> None:
    """A small random model of the tokenizer's kind, which writes what its authors' settings would forbid or force."""
    special = {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id,
               "eos_token_id": words.eos_token_id}  # fmt: skip
    size = max(len(words), 1 + max(languages.language_tokens(words).values()))
    if kind in ("mbart", "mbart50"):
        start = {} if kind == "mbart" else {"decoder_start_token_id": words.eos_token_id}
        config = transformers.MBartConfig(vocab_size=size, **SIZES["marian"], **special, **start)
        made = transformers.MBartForConditionalGeneration
    else:
        config = transformers.M2M100Config(
            vocab_size=size, **SIZES["marian"], **special, decoder_start_token_id=words.eos_token_id
        )
        made = transformers.M2M100ForConditionalGeneration
    torch.manual_seed(0)
    model = made(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.generation_config.forced_eos_token_id = words.eos_token_id
    model.generation_config.max_length = 200
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def spec_of(folder: Path, **fields: Any) -> Any:
    rows = [json.dumps({"source": source, "target": target}) for source, target in PAIRS]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    spec = {
        "task": "translation", "method": "fine-tuning", "model": "student", "output": "out",
        "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 6},
        "training": {"max_steps": 2, "batch_size": 4, "precision": "fp32", "learning_rate": 1e-3},
    }  # fmt: skip
    return kt.recipe.from_dict({**spec, **fields}, folder)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mbart50", "m2m")]  # as NLLB, in other tokens


@pytest.mark.parametrize("kind", ["nllb", "mbart", *SLOW])
def test_stock_generate_writes_a_runs_translations(tmp_path, kind):
    """The target language is given: forced by the saved settings, the decoder's start for mBART; and never learnt."""
    model_of(TOKENIZERS[kind][0](tmp_path), kind, tmp_path / "student")
    told = {"source": "English", "target": "de"}
    run = kt.train(spec_of(tmp_path, languages=told, method="distillation", reference="student",
                           objective={"weight": 0.5}))  # fmt: skip
    lines = (tmp_path / "out" / "predictions" / "test.jsonl").read_text().splitlines()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    stock = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out" / "model")
    german = languages.language_tokens(words)[TOKENIZERS[kind][1]]
    given = words.decode([german], skip_special_tokens=True)  # M2M100 spells the language that it is given: "__de__"
    written = [
        words.decode(stock.generate(**words(source, return_tensors="pt"))[0], skip_special_tokens=True)
        .strip()
        .removeprefix(given)
        for source, _ in PAIRS
    ]
    assert written == [json.loads(line)["prediction"] for line in lines]
    settings = stock.generation_config
    assert german == (settings.decoder_start_token_id if kind == "mbart" else settings.forced_bos_token_id)
    assert run.result["generation"]["unused"]["max_length"] == 200
    again = kt.predict(tmp_path / "out" / "model", tmp_path / "rows.jsonl", task="translation")
    assert [row["prediction"] for row in again] == written


REFUSED = {
    "a misspelt language": ({"source": "English", "target": "Germn"}, 'did you mean "German"?'),
    "no language": (None, "a model of several languages"),
    "another's": ({"source": "English", "target": "Klingon"}, "one of its 202 languages"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_languages_that_a_model_has_not_are_refused_by_name(tmp_path, name):
    told, message = REFUSED[name]
    model_of(nllb(), "nllb", tmp_path / "student")
    with pytest.raises(UserError) as refused:
        kt.train(spec_of(tmp_path, **({"languages": told} if told else {})))
    assert message in str(refused.value)
    assert "languages" in {problem.field for problem in refused.value.problems}
