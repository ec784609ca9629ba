"""What data may do to a terminal, a log or a message: nothing. And no secret is in any of them."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import warnings

import pytest
from rich.table import Table

from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.progress import Display
from keeltune.utils.sanitization import holds_secret, is_secret, printable, redacted
from keeltune.utils.terminal import Terminal, filtered_output

HOSTILE = {
    "escape": "\x1b[31mred\x1b]8;;http://evil\x07",
    "newline": "a\nerror: forged\n    found:    nothing",
    "carriage return": "a\rerror: forged",
    "next line": "a\x85error: forged",
    "line separator": "a\u2028error: forged\u2029",
    "bidi": "\u202egnp.exe\u2066\u200f",
    "zero width": "pos\u200b\ufeff\u2060",
    "surrogate": "\ud800x",
    "tags": "\U000e0041\U000e0042",
    "delete": "\x7f\x9b31m",
}
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def terminal() -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(file=out, width=200, force_terminal=False), out


def is_clean(text: str) -> bool:
    return not any(unicodedata.category(c) in INVISIBLE for c in text if c != "\n")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_problem_says_is_one_line_a_part(text):
    problem = Problem(text, text, shown(text), text, text, text)
    assert is_clean(str(problem))
    assert len(str(problem).split("\n")) == 4
    assert str(UserError(problem)).count("\nerror:") == 0


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_is_printed_is_inert(text):
    console, out = terminal()
    table = Table(text, title=text)
    table.add_row(text)
    for what in (text, table):
        console.print(what)
    console.rule(text)
    assert is_clean(out.getvalue())
    assert not re.search(r"^error:", out.getvalue(), re.MULTILINE)


@pytest.mark.parametrize("text", ["[red]x[/red]", "[link=http://evil]x[/link]", ":warning:", "\\[red]", "[/]", "1 + 1"])
def test_markup_and_emoji_in_data_stay_text(text, capsys):
    console, out = terminal()
    table = Table("label")
    table.add_row(text)
    console.print(text)
    console.print(table)
    assert out.getvalue().count(text) == 2
    Display().say(text)
    with Display(plain_every=0).bar(text, 1) as advance:
        advance(1, text)
    assert capsys.readouterr().err.count(text) == 3


def test_a_bar_of_a_terminal_shows_text(monkeypatch):
    out = io.StringIO()
    display = Display()
    display.console = Terminal(file=out, force_terminal=True, width=120)
    with display.bar("[red]\x1b[2Jscoring :warning:", 2) as advance:
        advance(1, "\x1b[2J[bold]half\n")
    assert "[red]\\x1b[2Jscoring :warning:" in out.getvalue()
    assert "\\x1b[2J[bold]half\\n" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


@pytest.mark.parametrize("text", ["naïve", "日本語　全角", "سلام", "हिन्दी", "e\u0301", "a\u00a0b", "👍🏽", "½ · –"])
def test_letters_of_every_language_stay(text):
    assert printable(text) == text


def test_what_libraries_log_and_warn_of_is_filtered(capsys):
    handler = logging.StreamHandler(stream := io.StringIO())
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    with filtered_output():
        logger.warning("label %s", "a\x1b[31m\nerror: forged")
        said = warnings.formatwarning("b\x1b\nerror: forged\u202e", UserWarning, "file", 1)
    logger.removeHandler(handler)
    assert stream.getvalue() == "label a\\x1b[31m\n  error: forged\n"
    assert said == "UserWarning: b\\x1b\n  error: forged\\u202e\n"


SECRETS = [
    "hub_token=SECRET", "training.hub_token: SECRET", '{"api_key": "SECRET"}', "{model: x, token: SECRET}",
    "http://user:SECRET@host/x", "as /a/http:/user:SECRET@host", "https://SECRET@host", "postgres://u:p/SECRET@host/db",
    "hub:a/b?token=SECRET&x=1", "Authorization: Bearer SECRETSECRET", "PASSWORD='SECRET'", "hf_SECRETSECRETSECRET",
    "sk-SECRETSECRETSECRETSECRET", "ghp_SECRETSECRETSECRET", "X-Api-Key: SECRET",
]  # fmt: skip
ORDINARY = [
    "pad_token=[PAD]", "max_new_tokens=64", "tokens_per_batch: 128", "a token: it ends a text", "no key: none",
    "me@example.org", "hub:name@main", "https://github.com/a/b@v1", "http://localhost:8000/v1", "sk-learn", "hf_x",
    'the column "key"', "tokenizer: encoder", "eos_token_id=2", "group_key=a", "keyword=b", "word: secretary",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_not_shown(text):
    assert "SECRET" not in redacted(text)
    assert "SECRET" not in str(Problem(text, text, shown(text), text, text))


@pytest.mark.parametrize("text", ORDINARY)
def test_what_only_looks_like_a_secret_stays(text):
    assert redacted(text) == text
    assert not holds_secret(text)


def test_what_the_environment_holds_is_not_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "correct horse battery")
    assert redacted("401 for correct horse battery") == "401 for ***"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("PWD", "/some/folder")
    assert redacted("falsefalse in /some/folder") == "falsefalse in /some/folder"


def test_the_value_of_a_field_named_as_a_secret_is_not_shown():
    assert "abc" not in str(Problem("r.yaml:3", "reference.api_key", shown("abc"), "nothing", "leave it out"))
    assert "5" in str(Problem("r.yaml:3", "generation.max_new_tokens", shown(5), "more", "more"))
    assert [n for n in ("key", "tokens", "pad_token", "sort_key", "tokenizer") if is_secret(n)] == []


def test_a_cut_value_leaves_no_secret_behind():
    assert "SECRET" not in shown("http://user:" + "SECRET" * 30 + "@host")
    assert "SECRET" not in shown({"model": "x" * 60, "api_key": "SECRET"})


@pytest.mark.parametrize(
    "value", [10**5000, [[10**5000]], float("nan"), None, b"\x1b"], ids=["int", "list", "nan", "none", "bytes"]
)
def test_any_value_can_be_shown(value):
    assert is_clean(shown(value))
