"""The Jinja environment of all pages: every value is escaped, shows all that is in it, and none may be missing."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from keeltune.reports.localization import Translator
from keeltune.utils.sanitization import shown_text

READABLE = "\n\t\u200c\u200d"
"""Invisible characters that a page keeps: ends of lines, and the joiners that many scripts are written with."""


def page_text(value: Any) -> Any:
    """A text as a page shows it: what turns its direction or hides is spelt out. HTML of our own stays as it is."""
    return shown_text(str(value), READABLE) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def environment(say: Translator) -> Environment:
    """The templates. `_` is `say`, and each macro of `macros.html` has its own name in every template.

    One for each language, so that each template is compiled once a process.
    """
    loader = PackageLoader("keeltune.reports", "templates")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=page_text)
    pages.globals |= {"_": say}
    macros = pages.get_template("macros.html").module
    pages.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
    return pages


@cache
def code() -> Environment:
    """The templates of programs and of Markdown, in which nothing is escaped."""
    loader = PackageLoader("keeltune.reports", "templates")
    return Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
