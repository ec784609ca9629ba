"""The documents say what is so: the reference is the code's, links lead somewhere, recipes parse, languages agree."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
READMES = ("README.md", "README.zh-CN.md")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def recipes(page: Path) -> list[str]:
    return [block for block in blocks(page, "yaml") if "task:" in block]


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks, without their comments, which are in the page's language."""
    lines = [line.split("#")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


def anchors(page: Path) -> set[str]:
    """The places in a page that a link can name, as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == module.reference(), "run: python docs/make_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("name", [*READMES, "docs/guide.md", "docs/guide.zh-CN.md"])
def test_recipes_parse(name, tmp_path):
    found = recipes(ROOT / name)
    assert found
    for text in found:
        recipe.parse(text, folder=tmp_path)


@pytest.mark.parametrize("name", [*READMES, "docs/guide.md"])
def test_each_method_has_a_recipe(name, tmp_path):
    methods = {recipe.parse(text, folder=tmp_path).method for text in recipes(ROOT / name)}
    assert methods == {"fine-tuning", "distillation", "cross-domain"}


def test_both_readmes_hold_the_same():
    english, chinese = (ROOT / name for name in READMES)
    assert commands(english) == commands(chinese)
    plain = [[re.sub(r" *#.*", "", text) for text in recipes(page)] for page in (english, chinese)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", READMES)
def test_the_readme_lists_every_command_and_no_other(name):
    import typer

    text = (ROOT / name).read_text(encoding="utf-8")
    built = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^\| `keeltune ([a-z]+)", text, re.MULTILINE)) == built


@pytest.mark.parametrize("name", READMES)
def test_the_readme_says_what_the_two_commands_are(name):
    assert commands(ROOT / name)[:2] == ["make demo", "make test"]


def test_the_examples_of_the_library_have_names_that_exist():
    import keeltune as kt

    for page in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        for name in re.findall(r"\bkt\.([A-Za-z_]+)", "".join(blocks(page, "python"))):
            assert hasattr(kt, name), f"{page.name}: kt.{name}"
