"""Gathers what the command says into its gettext catalogues, and compiles them: python docs/make_catalogue.py

A sentence is a string or an f-string of the source that has more than one word; an f-string's values become the places
`{0}`, `{1}`; a text of several lines is several sentences. What was translated stays, what is said no more goes, and
what is new is printed: its `msgstr` is to be filled in, in `src/keeltune/reports/locales/LANGUAGE/LC_MESSAGES/`.
"""

from __future__ import annotations

import ast
import datetime
import inspect
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from keeltune.utils.language import DOMAIN, numbered, page_sentences
from keeltune.utils.messages import LOCALES

SOURCE = Path(__file__).parents[1] / "src" / "keeltune"

WORDS = re.compile(r"[A-Za-z]{2,}[,;:]? [A-Za-z{(]|\} [a-z]{2,}|[a-z]{2,}: +\{")
"""What a sentence has, and a name, a pattern or a format has not."""

SILENT = re.compile("reports/|evaluation/|cli/demo_|.*_terms|utils/language|utils/messages|tasks/common/prompts")
"""Files whose sentences stand on pages, and are in the pages' own catalogue (`locales/LANGUAGE.json`), or are data."""

WHEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
"""gettext wants a date; one that changes would change the file with nothing changed in it."""

SINGLE = (
    "nothing",
    "none",
    "Print it.",
    "error: {0}",
    "skipped: {0}",
    "{0} (text)",
    "{0} (a number)",
    "{0} (a whole number)",
    "{0} (true/false)",
    "{0} (a list)",
    "{0} (a mapping)",
)
"""Sentences of a word that are never a user's, or are put together in the source."""


def sentences() -> dict[str, str | None]:
    """Every template that the command may print, in the order of the source, with its gettext context."""
    found: dict[str, str | None] = dict.fromkeys(SINGLE)
    paged = {numbered(text) for language in LOCALES.glob("*.json") for text in page_sentences(language.stem)}
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        name = file.relative_to(SOURCE).as_posix()
        if not SILENT.match(name):
            found |= dict.fromkeys(line for text in _texts(tree) for line in _lines(text) if WORDS.search(line))
        if name.startswith("cli/"):
            found |= dict.fromkeys(_helps(tree, file.stem))
            found |= {text: "heading" for text in _headings(tree) if text not in found}
    found |= dict.fromkeys(_typer())
    return {text: context for text, context in found.items() if text not in paged}


def _texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a file that are no docstrings, an f-string as its template."""
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed |= {id(value) for value in node.values}
        if isinstance(node, ast.keyword) and node.arg in ("description", "pattern", "template"):
            passed |= {id(part) for part in ast.walk(node.value)}
    for node in ast.walk(tree):
        if id(node) in passed:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield numbered(node.value)
        elif isinstance(node, ast.JoinedStr):
            yield _template(node)


def _template(node: ast.JoinedStr) -> str:
    parts = [_escaped(v.value) if isinstance(v, ast.Constant) else None for v in node.values]  # type: ignore[arg-type]
    numbers = iter(range(len(parts)))
    return "".join(part if part is not None else f"{{{next(numbers)}}}" for part in parts)


def _lines(text: str) -> Iterator[str]:
    """A text's lines as they are printed, the places of each numbered from nought."""
    for line in text.split("\n"):
        numbers = iter(range(line.count("{")))
        yield re.sub(r"(?<!\{)\{\d+\}(?!\})", lambda _: f"{{{next(numbers)}}}", line.strip())  # noqa: B023


def _helps(tree: ast.Module, stem: str) -> Iterator[str]:
    """The docstring of a verb, and the helps of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in (stem, "options"):
            yield inspect.cleandoc(ast.get_docstring(node) or "")
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def _headings(tree: ast.Module) -> Iterator[str]:
    """The columns of tables."""
    for node in ast.walk(tree):
        name = node.func if isinstance(node, ast.Call) else None
        if isinstance(name, ast.Name | ast.Attribute):
            called = name.id if isinstance(name, ast.Name) else name.attr
            if called in ("Table", "Column", "add_column", "heading"):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]  # type: ignore[attr-defined]
                yield from (text for text in texts if isinstance(text, str) and re.search("[a-z]", text))


def _typer() -> Iterator[str]:
    """What typer asks gettext for."""
    for file in sorted(Path(typer.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    yield "Install completion for the current shell."
    yield "Show completion for the current shell, to copy it or customize the installation."
    yield from ("Show this message and exit.", "Usage: {0}", "Missing argument '{0}'.", "Missing option '{0}'.")
    yield from ("No such option: {0}", "No such command '{0}'.", "Got unexpected extra argument(s) ({0})")
    yield from ("Invalid value for {0}: {1}", "No such option: {0} (Possible options: {1})")
    yield from ("No such option: {0} Did you mean {1}?", "Option '{0}' requires an argument.")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def updated(language: str) -> Catalog:
    """A language's catalogue with today's sentences."""
    file = LOCALES / language / "LC_MESSAGES" / f"{DOMAIN}.po"
    old = read_po(io.BytesIO(file.read_bytes()), locale=language) if file.is_file() else Catalog(language)
    new = Catalog(language, project=DOMAIN, fuzzy=False, header_comment=f"# What the command says in {language}.")
    new.creation_date = new.revision_date = WHEN
    for english, context in sentences().items():
        known = old.get(english, context)
        new.add(english, known.string if known else "", context=context)
    return new


def compiled(catalog: Catalog) -> bytes:
    write_mo(buffer := io.BytesIO(), catalog)
    return buffer.getvalue()


def main() -> None:
    for folder in sorted(path for path in LOCALES.iterdir() if path.is_dir()):
        catalog = updated(folder.name)
        file = folder / "LC_MESSAGES" / f"{DOMAIN}.po"
        write_po(buffer := io.BytesIO(), catalog, width=116, sort_output=False, omit_header=False)
        file.write_bytes(buffer.getvalue())
        file.with_suffix(".mo").write_bytes(compiled(catalog))
        missing = [message.id for message in catalog if message.id and not message.string]
        print(f"{folder.name}: {len(catalog)} sentences, {len(missing)} of them not translated", file=sys.stderr)
        print("\n".join(missing))


if __name__ == "__main__":
    main()
