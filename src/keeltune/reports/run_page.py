"""The run's page: self-contained, every word of the user's data escaped, readable in print and on a phone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from keeltune.recipe.fields import Recipe
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section
from keeltune.reports.templating import environment
from keeltune.utils import registry
from keeltune.utils.errors import Problem, UserError, shown


def page(folder: Path, result: Mapping[str, Any], further: Sequence[str] = (), stored: Recipe | None = None) -> str:
    """`report.html` of a finished run, from its `result.json`, `log.jsonl`, `recipe.yaml` and predictions.

    `further`: sections from elsewhere, as the user's recipe names them; those of the folder's own recipe are not
    imported, since the folder may be somebody else's. `stored`: what the folder's recipe.yaml says, of who has it.
    """
    run = FinishedRun(folder, result, stored)
    pages = environment(run.say)
    sections = _bounded(dict(_sections(run, further, pages)), run)
    template = pages.get_template("report.html")
    return template.render(name=folder.name, result=result, sections=sections, made_of=made_of(result))


def made_of(result: Mapping[str, Any]) -> str:
    """The result's own digest, which its page names: a page of another one is known by it."""
    return str((result.get("digests") or {}).get("result") or "")


def sections_of(further: Sequence[str]) -> list[type[Section]]:
    """The package's sections and those from elsewhere, in the order of their numbers.

    Raises: UserError, with every name that stands for no section.
    """
    sections = [registry.find("sections", name) for name in registry.names("sections")]
    sections += sections_from_elsewhere(further)
    return sorted(dict.fromkeys(sections), key=lambda section: section.order)


def sections_from_elsewhere(names: Sequence[str], where: str = "the recipe") -> list[type[Section]]:
    """The sections that a recipe names. Raises UserError, with every name that stands for none."""
    sections, problems = list[type[Section]](), []
    for name in names:
        try:
            sections.append(registry.find("sections", name))
        except LookupError as error:
            expected = "a section's class, as my_package.my_module:MySection"
            problems.append(Problem(where, "report.sections", shown(name), expected, str(error)))
    if problems:
        raise UserError(problems)
    return sections


MOST = 4
"""MiB of a page's sections; a usual one has a hundredth. What is larger opens slowly, and is looked at by nobody."""


def _bounded(sections: dict[str, Markup], run: FinishedRun) -> list[Markup]:
    """The sections by their names, the largest in a sentence where all of them are more than `MOST`."""
    sizes = {name: len(html.encode()) for name, html in sections.items()}
    while sum(sizes.values()) > MOST * 2**20:
        largest = max(sizes, key=lambda name: sizes[name])
        sentence = run.say(
            "The section {name} is left out: the page would be larger than {most} MiB.",
            name=largest.split(".")[-1],
            most=MOST,
        )
        sections[largest] = Markup("<p>{}</p>").format(sentence)
        sizes[largest] = 0
    return list(sections.values())


def _sections(run: FinishedRun, further: Sequence[str], pages: Environment) -> Iterator[tuple[str, Markup]]:
    """The sections that have something to say. A fault of one from elsewhere is said, and costs no page."""
    for section in sections_of(further):
        try:
            html = _html(section(), run, pages)
        except Exception as error:
            if section.__module__.startswith("keeltune."):
                raise
            sentence = run.say("The section {name} failed: {error}.", name=section.__name__, error=repr(error))
            html = Markup("<p>{}</p>").format(sentence)
        if html is not None:
            yield f"{section.__module__}.{section.__name__}", html


def _html(section: Section, run: FinishedRun, pages: Environment) -> Markup | None:
    values = section.values(run)
    if values is None:
        return None
    template = _template(type(section), pages)
    return Markup(template.render(result=run.result, units=run.units, **values))


@cache
def _template(section: type[Section], pages: Environment) -> Template:
    return pages.from_string(section.template)
