"""The recipe that `keeltune init` writes: what a row is, which model fits its task and language, what to change."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeltune.data.columns import MEDIA
from keeltune.data.recognition import Recognised, Table
from keeltune.recipe.yaml_values import AMBIGUOUS
from keeltune.tasks.common.language import Language, detect

SCHEMA = "keeltune.schema.json"

ENCODERS = {"en": "distilbert/distilroberta-base", "zh": "google-bert/bert-base-chinese"}
EVERY_LANGUAGE = "FacebookAI/xlm-roberta-base"
CHAT = {"en": "HuggingFaceTB/SmolLM2-135M-Instruct"}
CHAT_OF_MANY = "Qwen/Qwen2.5-0.5B-Instruct"
PAIRS = {("en", "de"), ("de", "en"), ("en", "fr"), ("fr", "en"), ("en", "es"), ("es", "en"), ("en", "zh"), ("zh", "en")}
"""Pairs of languages that Helsinki-NLP has a small model for, among others."""

TRAINING = {
    "speech-recognition": "{epochs: 3, learning_rate: 1.0e-5, batch_size: 8}",
    "summarization": "{epochs: 2, learning_rate: 2.0e-5, batch_size: 8}",
    "text-generation": "{epochs: 2, learning_rate: 2.0e-5, batch_size: 8}",
    "translation": "{epochs: 3, learning_rate: 2.0e-5, batch_size: 16}",
    "image-captioning": "{epochs: 3, learning_rate: 5.0e-5, batch_size: 16}",
}
USUAL = "{batch_size: 32}               # epochs and rates: as the rows and the model need them"


def text(
    found: Recognised,
    splits: Mapping[str, str],
    records: Sequence[Mapping[str, Any]],
    *,
    folder: Path,
    model: str | None = None,
) -> str:
    """A commented recipe in YAML. `folder`: where it will lie, from which its paths are named."""
    assert found.task is not None
    return "\n".join(_lines(found, splits, Table.of(records).values, folder, model)) + "\n"


def _lines(
    found: Recognised, splits: Mapping[str, str], values: Mapping[str, Sequence[Any]], folder: Path, model: str | None
) -> Iterator[str]:
    task = str(found.task)
    written = {ours: theirs for ours, theirs in found.columns.items() if ours not in MEDIA}  # names of files say none
    languages = {ours: _language(values.get(theirs, ())) for ours, theirs in written.items()}
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# {' '.join(found.why.split())}."  # a column's name may have several lines
    yield f"task: {task}"
    yield "method: fine-tuning                # or distillation (with reference: TEACHER), or cross-domain"
    told = next(iter(languages.values()), None)
    said = f"# for {told.code}; any model folder or hub id" if told and not model else "# any model folder or hub id"
    chosen = model or suggested(task, languages)
    yield f"model: {_quoted(chosen)}   {said}"
    pair = [languages[side].code for side in ("source", "target") if side in languages]
    if task == "translation" and "nllb" in chosen and len(pair) == 2:  # a model of one pair knows its languages
        yield f"languages: {{source: {pair[0]}, target: {pair[1]}}}"
    yield "data:"
    for split, name in splits.items():
        yield f"  {split}: {_quoted(_from(name, folder))}"
    if "validation" not in splits:
        yield "  validation: 0.1                  # a share of train, which chooses the best weights"
    if "test" not in splits:
        yield "  # test: FILE                     # rows that choose nothing: only they say how good the model is"
    if found.renamed:
        pairs = ", ".join(f"{ours}: {_quoted(theirs)}" for ours, theirs in found.renamed.items())
        yield f"  columns: {{{pairs}}}"
    tags = values.get(found.columns.get("tags", ""), ())
    if task == "token-classification" and tags and all(type(tag) is int for row in tags for tag in row):
        yield "  # labels: [O, B-PER, I-PER]      # what the numbers of the tags are called, in their order from 0"
    yield f"training: {TRAINING.get(task, USUAL)}"
    yield "output: runs/first"


def suggested(task: str, languages: Mapping[str, Language]) -> str:
    """A small pretrained model for a task, and the language of its rows."""
    told = next(iter(languages.values()), Language("en"))
    if task == "speech-recognition":
        spoken = languages.get("text", told)
        return "openai/whisper-tiny.en" if spoken.base == "en" else "openai/whisper-base"
    if task == "image-captioning":
        return "Salesforce/blip-image-captioning-base"
    if task == "translation":
        pair = tuple(languages[name].base if name in languages else "en" for name in ("source", "target"))
        return f"Helsinki-NLP/opus-mt-{pair[0]}-{pair[1]}" if pair in PAIRS else "facebook/nllb-200-distilled-600M"
    if task in ("summarization", "text-generation"):
        return CHAT.get(told.base, CHAT_OF_MANY)
    return ENCODERS.get(told.base, EVERY_LANGUAGE)


def _language(values: Sequence[Any]) -> Language:
    """The language of a column's values, whatever they are made of."""
    return detect([v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str) for v in values[:200]])


def _from(name: str, folder: Path) -> str:
    """A path as a recipe in `folder` names it."""
    return name if name.startswith("hub:") else Path(os.path.relpath(name, folder)).as_posix()


def _quoted(value: str) -> str:
    """A text as YAML reads it back: plain where that is safe."""
    plain = value.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
    is_safe = plain.isalnum() and plain[0].isalpha() and value.lower() not in {*AMBIGUOUS, "true", "false", "null"}
    return value if is_safe else json.dumps(value, ensure_ascii=False)
