"""Folders whose tokenizers hold no vocabulary, and libraries that lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keeltune.models import libraries, model_files, processors
from keeltune.models.model_files import or_refuse
from keeltune.utils.errors import UserError
from tests.helpers.models import save_tiny

BYTES = {"ByT5Tokenizer": "t5", "CanineTokenizer": "canine", "PerceiverTokenizer": "perceiver"}


@pytest.mark.parametrize("kind", BYTES)
def test_a_tokenizer_that_reads_bytes_needs_no_vocabulary(tmp_path, kind):
    save_tiny(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": BYTES[kind]}))
    with pytest.raises(UserError, match="no tokenizer"):
        model_files.locate(str(tmp_path), Path, "w", "model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    source = model_files.locate(str(tmp_path), Path, "w", "model")
    if kind != "CanineTokenizer":  # a million code points, which take seconds
        words = processors.read_processor(source, "w", "model")
        assert words.decode(words("grün", add_special_tokens=False)["input_ids"]) == "grün"


def test_a_tokenizer_with_a_vocabulary_needs_it(tmp_path):
    save_tiny(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for name in ("BertTokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer", 5):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": name}))
        with pytest.raises(UserError):
            processors.read_processor(model_files.locate(str(tmp_path), Path, "w", "model"), "w", "model")


@pytest.mark.parametrize("name", ["sentencepiece", "tiktoken", "sacremoses", "protobuf"])
def test_a_library_that_lacks_is_named_with_its_extra(monkeypatch, tmp_path, name):
    module = libraries.NAMED.get(name, name)
    monkeypatch.setattr(libraries, "installed", lambda asked: asked != module)

    def load() -> None:
        raise ImportError(f"SomeTokenizer requires the {name} library but it was not found in your environment.")

    with pytest.raises(UserError) as refused:
        or_refuse(load, str(tmp_path), "w", "model")
    assert refused.value.problems[0].fix == "pip install 'keeltune[sentencepiece]'"


def test_names_that_no_folder_can_have_are_refused():
    for name in ("m" * 5_000, "a\0b"):
        with pytest.raises(UserError, match=r"correct the path|hub id"):
            model_files.locate(name, Path, "w", "model")


def test_what_is_no_fault_of_a_folder_is_not_hidden():
    with pytest.raises(KeyboardInterrupt):
        or_refuse(lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "f", "w", "model")
    assert or_refuse(lambda: torch.ones(1), "f", "w", "model") == 1
