"""A shell completes verbs, runs, recipes, fields and their values, by what typer's scripts ask for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from keeltune.cli import completion
from tests.helpers.command import keeltune

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    runs = ("runs/films/result.json", "runs/films/model/config.json", "runs/deep/er/result.json")
    for name in (*runs, "models/encoder/config.json", ".cache/hidden/result.json", "films.yaml", "recipes/two.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(monkeypatch, capsys, shell: str, typed: str) -> list[str]:
    """What the command offers where `typed` is completed, as the shell's script asks."""
    words = shlex.split(typed) + [""] * typed.endswith(" ")
    monkeypatch.setenv("_KEELTUNE_COMPLETE", f"complete_{shell}")
    if shell == "bash":
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", typed)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    capsys.readouterr()
    assert keeltune(monkeypatch) == 0
    said = capsys.readouterr().out
    if shell == "zsh":  # _arguments '*: :(("value":"help" …))'
        return re.findall(r'(?:^|\(\()"([^"]+)"', said, re.MULTILINE)
    return [line.split("\t")[0] for line in said.split("\n") if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_is_offered_verbs_runs_and_values(folder, monkeypatch, capsys, shell):
    def ask(typed: str) -> list[str]:
        return offered(monkeypatch, capsys, shell, typed)

    assert ask("keeltune ver") == ["verify"]
    assert {"init", "train", "watch" if "watch" in ask("keeltune ") else "check"} <= set(ask("keeltune "))
    assert ask("keeltune verify runs/f") == ["runs/films"]
    assert ask("keeltune check fil") == ["films.yaml"]
    assert ask("keeltune check films.yaml training.ep") == ["training.epochs="]
    assert ask("keeltune train --over") == ["--overwrite"]


def test_what_is_offered(folder, monkeypatch):
    assert completion.runs("") == ["runs/deep/er", "runs/films"]
    assert completion.runs("./runs/") == ["./runs/deep/er", "./runs/films"]
    assert completion.models("") == ["models/encoder", "runs/deep/er", "runs/films"]
    assert completion.recipes("") == ["films.yaml", "recipes/two.yml"]
    assert completion.runs(str(folder / "runs/fi")) == [str(folder / "runs/films")]
    assert "sentiment-analysis" in completion.tasks("sen")
    assert "evaluation.metric=" in completion.overrides([], "evaluation.m")
    assert completion.overrides([], "method=d") == ["method=distillation"]
    assert completion.overrides(["method", "="], "d") == ["distillation"]  # as bash cuts it
    assert "fine-tuning" in completion.overrides(["method"], "=")
    assert completion.overrides([], "training.precision=") == [
        f"training.precision={w}" for w in ("auto", "fp32", "bf16")
    ]
    assert completion.overrides([], "data.multi_label=t") == ["data.multi_label=true"]
    assert completion.overrides([], "training.nothing=") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_shown_for_each_shell(shell, tmp_path):
    """In a process of its own, whose parent is taken for the shell; bash itself reads its script."""
    script = (
        "import sys, shellingham\n"
        f"shellingham.detect_shell = lambda *a, **k: ('{shell}', '/bin/{shell}')\n"
        "sys.argv = ['keeltune', '--show-completion']\n"
        "from keeltune.cli.app import main\n"
        "main()\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "_KEELTUNE_COMPLETE" in shown.stdout
    if shell == "bash":
        (tmp_path / "script").write_text(shown.stdout, encoding="utf-8")
        read = subprocess.run(["bash", "-n", tmp_path / "script"], capture_output=True, text=True)
        assert read.returncode == 0, read.stderr
