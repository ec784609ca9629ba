"""The command speaks Chinese where it is asked to: what it prints, and nothing that it writes or that a user wrote."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from babel.messages.pofile import read_po

from keeltune.utils import language
from keeltune.utils.messages import LOCALES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def zh(monkeypatch: pytest.MonkeyPatch) -> language.Catalogue:
    monkeypatch.setenv("KEELTUNE_LANG", "zh")
    return language.catalogue("zh")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_catalogue", ROOT / "docs" / "make_catalogue.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "de_DE"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "KEELTUNE_LANG": "en"}, "en"),
        ({"KEELTUNE_LANG": "zh-CN"}, "zh"),
        ({"KEELTUNE_LANG": "../zh"}, "en"),
    ],
)
def test_the_language_is_that_of_the_variable_else_of_the_locale(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KEELTUNE_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.chosen() == expected


def test_the_catalogue_has_all_that_the_source_says_and_is_compiled(maker: ModuleType) -> None:
    """Mended by: python docs/make_catalogue.py, and the `msgstr` of what it prints."""
    file = LOCALES / "zh" / "LC_MESSAGES" / f"{language.DOMAIN}.po"
    catalog = read_po(io.BytesIO(file.read_bytes()), locale="zh")
    known = {(message.id, message.context) for message in catalog if message.id}
    assert known == set(maker.sentences().items())
    assert not [message.id for message in catalog if message.id and not message.string]
    assert file.with_suffix(".mo").read_bytes() == maker.compiled(catalog)


def test_a_translation_has_no_place_that_its_sentence_lacks(zh: language.Catalogue) -> None:
    def places(template: str) -> set[str]:
        return {place for _, place in language.parts(template) if place is not None}

    assert not {english for english, text in zh.sentences.items() if not places(text) <= places(english)}


def test_a_finished_sentence_is_found_again(zh: language.Catalogue) -> None:
    """Each template, filled in, is said as its own translation: none is taken for another."""
    wrong = []
    for english, text in zh.sentences.items():
        template, line = language.Template(english, text), ""
        if not template.places or not (template.telling or template.opens):
            continue
        values = {place: f"Q{place}" for place in template.places}
        for words, place in language.parts(english):
            behind_another = place is not None and not words and line
            values |= {place: f"; Q{place}"} if place is not None and behind_another else {}
            line += words + ("" if place is None else values[place])
        if zh.line(line).strip() != template.said(values).strip():
            wrong.append((english, zh.line(line)))
    assert not wrong


def test_values_are_said_too_where_they_are_sentences(zh: language.Catalogue) -> None:
    assert zh.line("    found:    nothing") == "    实际：无"
    assert zh.line('    fix:      choose one of them; did you mean "a"?') == '    改法：选择其中之一；你是否指 "a"？'


@pytest.mark.parametrize("text", ["rows", "the method of tides", "loss: 3 of 4", "a, b and c", "{0} {x}", "", "训练"])
def test_a_users_words_stay(text: str, zh: language.Catalogue) -> None:
    assert zh.line(f"  {text}") == f"  {text}"


def test_english_says_everything_as_it_is() -> None:
    assert language.catalogue("en").line("2 problems; nothing was started.") == "2 problems; nothing was started."


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", "keeltune", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_help_and_errors_are_in_chinese_and_json_is_not(tmp_path: Path) -> None:
    helped = command("train", "--help", KEELTUNE_LANG="zh").stdout
    assert "用法：" in helped and "从 `output` 中最新的检查点继续" in helped and "选项" in helped
    assert not re.search(r"Usage|Options|Arguments|Show this", helped)
    (tmp_path / "r.yaml").write_text("task: text-clasification\nmodel: x\n", "utf-8")
    refused = command("check", str(tmp_path / "r.yaml"), KEELTUNE_LANG="zh")
    assert refused.returncode == 2
    assert "text-clasification" in refused.stderr and "改法：" in refused.stderr and "fix:" not in refused.stderr
    listed = command("runs", str(tmp_path), "--json", KEELTUNE_LANG="zh")
    assert json.loads(listed.stdout) == []
