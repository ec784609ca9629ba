"""A model that keeltune wrote is what it was, or is refused with each file that is not."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from keeltune.models import loading, lora, model_files, saving, sealed_model
from keeltune.recipe.training_fields import Lora
from keeltune.utils.errors import StateRefused, UserError
from tests.helpers.models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model's folder as a run leaves it."""
    folder = tmp_path_factory.mktemp("saved")
    source = str(save_tiny(folder / "source"))
    found = AutoModelForSequenceClassification.from_pretrained(source)
    with loading.quiet_transformers():
        saving.save(found, AutoTokenizer.from_pretrained(source), folder / "model")
    (folder / "model" / "README.md").write_text("# A model")
    return folder / "model"


def problems(folder: Path) -> list[str]:
    """What is said of it, as a model of a recipe."""
    try:
        model_files.locate(str(folder), Path, "r.yaml:3", "model")
    except StateRefused as refused:
        return [problem.found for problem in refused.problems if "taken as it is" in problem.fix]
    return []


def test_stock_transformers_loads_what_was_written(model):
    assert problems(model) == []
    AutoModelForSequenceClassification.from_pretrained(model)
    AutoTokenizer.from_pretrained(model)
    assert {p.name for p in model.parent.iterdir()} == {"source", "model"}  # nothing is left of the writing


def test_every_flipped_bit_is_found(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    dice, tried = random.Random(0), 0
    for file in [*sealed_model.read_files(folder), folder / sealed_model.MANIFEST]:
        content = file.read_bytes()
        for place in [0, len(content) - 1, *(dice.randrange(len(content)) for _ in range(14))]:
            flipped = bytearray(content)
            flipped[place] ^= 1 << dice.randrange(8)
            file.write_bytes(flipped)
            (found,) = problems(folder)
            assert file.name in found
            tried += 1
        file.write_bytes(content)
    assert problems(folder) == []
    assert tried >= 80


@pytest.mark.parametrize("cut", ["empty", "half", "gone"])
def test_every_cut_and_missing_file_is_found(model, tmp_path, cut):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for file in sealed_model.read_files(folder):
        content = file.read_bytes()
        if cut == "gone":
            file.unlink()
        else:
            file.write_bytes(b"" if cut == "empty" else content[: len(content) // 2])
        (found,) = problems(folder)
        assert file.name in found
        assert ("is missing" in found) == (cut == "gone")
        file.write_bytes(content)
    assert problems(folder) == []


def test_both_digests_are_said(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("gelu", "relu"))
    (found,) = problems(folder)
    assert found.count("…") == 2
    assert "config.json has the SHA-256 " in found


def test_a_file_that_would_change_what_is_read_is_refused(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for name in ("README.md", "notes.md", "pytorch_model.bin", "model.onnx", ".gitattributes"):
        (folder / name).write_text("mine")  # people edit the card, and put other forms beside it
    assert problems(folder) == []
    (folder / "adapter_config.json").write_text("{}")
    (found,) = problems(folder)
    assert "adapter_config.json was not written by keeltune" in found


def test_somebody_elses_folder_is_taken_as_it_is(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("gelu", "relu"))
    assert problems(folder)
    (folder / sealed_model.MANIFEST).unlink()  # as the message says, where the change is meant
    assert problems(folder) == []
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError) as broken:
        model_files.locate(str(folder), Path, "r.yaml:3", "model")
    assert broken.value.exit_status == 2


def test_an_adapter_and_its_base_are_held_against_their_manifests(model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model, base)
    whole = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = lora.add_adapter(whole, Lora(rank=2, alpha=4))
    with loading.quiet_transformers():
        saving.save_adapter(adapted, AutoTokenizer.from_pretrained(base), tmp_path / "adapter")
    assert problems(tmp_path / "adapter") == []
    for file in (tmp_path / "adapter" / "adapter_model.safetensors", base / "config.json"):
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(StateRefused, match=file.name):
            model_files.locate(str(tmp_path / "adapter"), Path, "r.yaml:3", "model")
        file.write_bytes(content)
