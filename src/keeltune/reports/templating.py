"""The Jinja environment of all pages: every value is escaped, and none may be missing."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from keeltune.reports.localization import Translator


@cache
def environment(say: Translator) -> Environment:
    """The templates. `_` is `say`, and each macro of `macros.html` has its own name in every template.

    One for each language, so that each template is compiled once a process.
    """
    loader = PackageLoader("keeltune.reports", "templates")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    pages.globals |= {"_": say}
    macros = pages.get_template("macros.html").module
    pages.globals |= {name: macro for name, macro in vars(macros).items() if not name.startswith("_")}
    return pages
