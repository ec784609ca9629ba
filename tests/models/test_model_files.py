"""Folders whose tokenizers hold no vocabulary, and libraries that lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_one_bit_anywhere_in_a_model_makes_another_one(tmp_path, name):
    """Also in the middle of weights of which both ends are as they were."""
    folder = save_tiny(tmp_path / "m", "gpt2")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "filling": torch.zeros(2_000_000)}, folder / "model.safetensors", {"format": "pt"})
    whole = model_files.fingerprint(str(folder))
    content = bytearray((folder / name).read_bytes())
    for place in (len(content) // 3, len(content) // 2, len(content) - 9):
        content[place] ^= 1
        (folder / name).write_bytes(content)
        assert model_files.fingerprint(str(folder)) != whole
        content[place] ^= 1
    (folder / name).write_bytes(content)
    for unread in ("README.md", "pytorch_model.bin", "optimizer.pt", ".lock"):
        (folder / unread).write_bytes(b"x")
    assert model_files.fingerprint(str(folder)) == whole


def test_a_model_of_the_hub_is_the_commit_that_lies_here(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = []
    for commit in ("a" * 40, "b" * 40):
        here = tmp_path / "models--some--model"
        (here / "refs").mkdir(parents=True, exist_ok=True)
        (here / "refs" / "main").write_text(commit)
        (here / "snapshots" / commit).mkdir(parents=True)
        (here / "snapshots" / commit / "config.json").write_text("{}")
        found.append(model_files.fingerprint("some/model"))
    assert found == [f"some/model@{'a' * 40}", f"some/model@{'b' * 40}"]
    assert model_files.fingerprint("other/model") == "other/model@unknown"


def test_a_run_that_has_not_ended_is_called_one(tmp_path):
    """Who stopped a training and asks it for answers is told how to end it, not what `save_pretrained` writes."""
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(UserError) as refused:
        model_files.locate(str(tmp_path), Path, "the call", "model")
    (problem,) = refused.value.problems
    assert problem.found == f"{tmp_path}: a run that has not ended"
    assert "--resume" in problem.fix
