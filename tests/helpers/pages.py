"""What every page that we write owes its reader."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from keeltune.utils.messages import LOCALES

TABLES = json.loads((LOCALES / "zh.json").read_text("utf-8"))
NAMES, CHINESE = (
    {english: chinese for group in TABLES[part].values() for english, chinese in group.items()}
    for part in ("names", "sentences")
)
"""What the pages say in Chinese: names of ours, and sentences."""

CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "base", "form", "foreignobject", "use", "a"}


class Page(HTMLParser):
    """A page's tags with their attributes, its text, and that every tag is closed; `own`: what is no text of the data's
    rows, which stand in elements of the class `text`."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.own: list[str] = []
        self.open: list[str] = []
        self.classes: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.classes.append((dict(attributes).get("class") or "").split())

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)
            self.own += [data] if not any("text" in names for names in self.classes) else []

    @property
    def text(self) -> str:
        return "".join(self.words)


def check_page(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & FORBIDDEN
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href", "action", "srcset", "background"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), value
        assert "url(" not in (attributes.get("style") or "")
    policies = [a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert [policy["content"] for policy in policies] == [CSP]
    assert "svg" in {tag for tag, _ in page.tags}
    assert "@import" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert ("nan" in page.text.lower().split()) is False
    return page


def check_chinese(html: str) -> Page:
    """A page whose own words are all Chinese; what is code or the user's data may be English."""
    assert '<html lang="zh">' in html
    page = check_page(html)
    own = page.own[: page.own.index("复现")] if "复现" in page.own else page.own
    said = re.sub(r"/[^\s<]+|keeltune[ a-z]*", "", "\n".join(own))
    assert re.findall(r"(?:[A-Za-z]{2,} ){2,}[A-Za-z]{2,}", said) == []
    for english in CHINESE:
        for part in re.split(r"\{[^}]*\}", english):
            assert len(part) < 12 or part not in said, part
    return page
