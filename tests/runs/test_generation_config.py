"""What is scored is what is saved: stock `generate` on a run's `model/` writes the run's predictions.

The base models here have settings that would rule: a least length, beams, forbidden repeats, sampling, forced tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import keeltune as kt
from keeltune.data import audio
from tests.helpers import captioners, speakers, whispers, writers

STYLE = {
    "min_length": 7, "no_repeat_ngram_size": 1, "num_beams": 3, "length_penalty": 2.0, "do_sample": True,
    "temperature": 0.5, "top_k": 3, "forced_eos_token_id": 5, "max_length": 9, "repetition_penalty": 1.7,
}  # fmt: skip


def styled(folder: Path, **more: Any) -> None:
    """A base model's folder with settings that its authors liked."""
    file = folder / "generation_config.json"
    stored = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**stored, **STYLE, **more}))


def run_of(folder: Path, spec: dict[str, Any], **more: Any) -> tuple[Any, Path, list[str]]:
    """(result, model folder, predictions of the test rows) of a short training."""
    spec = {**spec, "output": "out", **more}
    spec["training"] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    run = kt.train(kt.recipe.from_dict(spec, folder))
    lines = (folder / "out" / "predictions" / "test.jsonl").read_text().splitlines()
    return run.result, folder / "out" / "model", [json.loads(line)["prediction"] for line in lines]


def unused(result: dict[str, Any]) -> set[str]:
    return set(result["generation"]["unused"])


ALL = {"beams": 2, "min_new_tokens": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5, "repetition_penalty": 1.2,
       "early_stopping": True}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "task", "recipe"), [("bart", "translation", {}), ("gpt2", "text-generation", ALL)]
)
def test_stock_generate_writes_the_predictions_of_texts(tmp_path, architecture, task, recipe):
    spec = writers.spec(tmp_path, task, architecture, "fine-tuning")
    styled(tmp_path / "student")
    result, model, predictions = run_of(tmp_path, spec, generation={"max_new_tokens": 8, **recipe})
    words = transformers.AutoTokenizer.from_pretrained(model)
    auto = transformers.AutoModelForSeq2SeqLM if architecture == "bart" else transformers.AutoModelForCausalLM
    stock = auto.from_pretrained(model)
    written = []
    for row in writers.rows(task):
        text = row.fields["source"] if task == "translation" else row.fields["prompt"]
        inputs = words(text, return_tensors="pt")
        ids = stock.generate(**inputs)[0]
        written.append(words.decode(ids if architecture == "bart" else ids[inputs["input_ids"].shape[1] :],
                                    skip_special_tokens=True).strip())  # fmt: skip
    assert written == predictions
    assert {"min_length", "num_beams", "forced_eos_token_id", "temperature"} <= unused(result)
    saved = json.loads((model / "generation_config.json").read_text())
    assert saved["max_new_tokens"] == 8
    assert not {"min_length", "forced_eos_token_id", "temperature"} & saved.keys()
    assert all(saved.get({"beams": "num_beams"}.get(name, name)) == value for name, value in recipe.items())


def test_stock_generate_writes_the_predictions_of_pictures(tmp_path):
    captioners.save("vit gpt2", tmp_path / "student", 0)
    styled(tmp_path / "student")
    captioners.write(tmp_path, "rows.jsonl", 8)
    spec = {"task": "image-captioning", "method": "fine-tuning", "model": "student",
            "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 6}}  # fmt: skip
    _, model, predictions = run_of(tmp_path, spec)
    stock = transformers.AutoModelForImageTextToText.from_pretrained(model)
    words = transformers.AutoTokenizer.from_pretrained(model)
    looks = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    written = []
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        picture = Image.open(tmp_path / json.loads(line)["image"]).convert("RGB")
        ids = stock.generate(**looks(images=picture, return_tensors="pt"))[0]
        written.append(words.decode(ids, skip_special_tokens=True).strip())
    assert written == predictions


def bert_words(folder: Path) -> Any:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({w for t in captioners.TEXTS for w in t.split()}),
        "[DEC]",
    ]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    return transformers.BertTokenizer(str(folder / "vocab.txt"))


def blip(folder: Path) -> None:
    """A stock BLIP folder: its processor, and a decoder that starts from [DEC]."""
    words = bert_words(folder)
    text = {**captioners.PARTS["bert"], "vocab_size": len(words), "bos_token_id": len(words) - 1, "sep_token_id": 3,
            "eos_token_id": 3, "pad_token_id": 0, "encoder_hidden_size": 16}  # fmt: skip
    made = transformers.BlipForConditionalGeneration
    save_stirred(made(transformers.BlipConfig(text_config=text, vision_config=captioners.PARTS["vit"])), folder)
    looks = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.BlipProcessor(looks, words).save_pretrained(folder)


def blip2(folder: Path) -> None:
    """A stock BLIP-2 folder, whose processor puts the picture's tokens into a text by itself."""
    words = writers.tokenizer(ends=False)
    words.add_tokens(["<image>"], special_tokens=True)
    text = {"model_type": "opt", **writers.SIZES["opt"], "vocab_size": len(words), "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}  # fmt: skip
    inner = {**captioners.PARTS["bert"], "vocab_size": 30, "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    config = transformers.Blip2Config(
        vision_config=captioners.PARTS["vit"], qformer_config=inner, text_config=text, num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    save_stirred(transformers.Blip2ForConditionalGeneration(config), folder)
    looks = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.Blip2Processor(looks, words, num_query_tokens=4).save_pretrained(folder)


def save_stirred(model: Any, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)


@pytest.mark.parametrize("save", [blip, blip2])
def test_a_stock_blip_folder_says_what_its_own_generate_says(tmp_path, save):
    """Its processor was refused; its own `generate`, which hands picture and prompt to a decoder within, too."""
    save(tmp_path / "student")
    captioners.write(tmp_path, "rows.jsonl", 8)
    spec = {"task": "image-captioning", "method": "fine-tuning", "model": "student",
            "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 6}}  # fmt: skip
    _, model, predictions = run_of(tmp_path, spec)
    stock = transformers.AutoModelForImageTextToText.from_pretrained(model)
    read = transformers.AutoProcessor.from_pretrained(model)
    written = []
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        picture = Image.open(tmp_path / json.loads(line)["image"]).convert("RGB")
        text = {} if save is blip else {"text": "\n"}
        inputs = read(images=picture, return_tensors="pt", **text)
        ids = stock.generate(**inputs, max_new_tokens=6)[0]
        start = inputs["input_ids"].shape[1] if save is blip2 else 1
        written.append(read.tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    assert written == predictions


def test_a_bare_folder_writes_by_its_own_settings(tmp_path):
    """But for sampling: a score is of the likeliest text, the same each time."""
    spec = writers.spec(tmp_path, "translation", "bart", "fine-tuning")
    styled(tmp_path / "student", forced_eos_token_id=None)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    stock = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student")
    asked = [words(row.fields["source"], return_tensors="pt") for row in writers.rows()]
    written = [words.decode(stock.generate(**a, do_sample=False)[0], skip_special_tokens=True).strip() for a in asked]
    again = kt.predict(tmp_path / "student", tmp_path / spec["data"]["test"], task="translation")
    assert [row["prediction"] for row in again] == written


BROKEN = {"no JSON": "{", "a list": "[1]", "beams of text": '{"num_beams": "x"}', "brackets": "[" * 100_000}


@pytest.mark.parametrize("name", BROKEN)
def test_settings_that_cannot_be_read_are_refused(tmp_path, name):
    spec = writers.spec(tmp_path, "translation", "bart", "fine-tuning")
    (tmp_path / "student" / "generation_config.json").write_text(BROKEN[name])
    if name == "beams of text":  # not used
        run_of(tmp_path, spec, generation={"max_new_tokens": 2})
        return
    with pytest.raises(kt.utils.errors.UserError, match="student"):
        run_of(tmp_path, spec)


TOLD = {"English alone": (None, False, None, None), "heard": (None, True, None, "transcribe"),
        "transcribed": (("de", "German"), True, "<|de|>", "transcribe"),
        "translated": (("de", "English"), True, "<|de|>", "translate")}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_stock_generate_writes_the_predictions_of_sound(tmp_path, case):
    """The language that is spoken is given to the decoder, in training and in stock `generate`, and never learnt."""
    languages, multilingual, language, task = TOLD[case]
    words = whispers.save(tmp_path / "student", multilingual=multilingual)
    forbidden = [words.convert_tokens_to_ids(letter) for letter in "qyj"] + [words.convert_tokens_to_ids("o")]
    styled(tmp_path / "student", suppress_tokens=forbidden, begin_suppress_tokens=[words.eos_token_id],
           return_timestamps=True, max_initial_timestamp_index=1, logprob_threshold=-1.0)  # fmt: skip
    speakers.write(tmp_path, "rows.jsonl", range(8))
    told = {"languages": dict(zip(("source", "target"), languages, strict=True))} if languages else {}
    spec = {"task": "speech-recognition", "method": "fine-tuning", "model": "student", **told,
            "data": {"train": "rows.jsonl", "test": "rows.jsonl"}, "generation": {"max_new_tokens": 6}}  # fmt: skip
    result, model, predictions = run_of(tmp_path, spec)
    stock = transformers.WhisperForConditionalGeneration.from_pretrained(model)
    listen = transformers.AutoProcessor.from_pretrained(model)
    written = []
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        heard = audio.read(tmp_path / json.loads(line)["audio"])
        inputs = listen(heard.wave, sampling_rate=heard.rate, return_tensors="pt")
        written.append(listen.decode(stock.generate(**inputs)[0], skip_special_tokens=True).strip())
    assert written == predictions
    saved = json.loads((model / "generation_config.json").read_text())
    assert words.convert_tokens_to_ids("q") in saved["suppress_tokens"]  # kept, but for what the texts hold
    assert words.convert_tokens_to_ids("o") not in saved["suppress_tokens"]
    assert (saved.get("language"), saved.get("task")) == (language, task)
    assert saved["is_multilingual"] == multilingual
    assert {"logprob_threshold", "min_length"} <= unused(result)
