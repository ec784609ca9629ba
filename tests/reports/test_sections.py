"""The sections of a run's page: each says its part or is left out; one from outside stands where its number says."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from keeltune import recipe
from keeltune.reports import run_page
from keeltune.reports.sections.section import Section
from keeltune.runs import run
from keeltune.utils import registry
from keeltune.utils.errors import UserError
from keeltune.utils.progress import Display
from tests.helpers.pages import check_page
from tests.helpers.runs import make_data, spec_of

QUIET = Display(quiet=True)

OUTSIDE = '''
from keeltune.reports.sections.section import Section


class Speed(Section):
    """How fast it trained, and a text that would be markup."""

    order = 165
    template = "<h2>How fast</h2><p>{{ steps }} steps of <b>mine</b> {{ hostile }}</p>"

    def values(self, run):
        return {"steps": run.result["training"]["steps"], "hostile": "<script>alert(1)</script>"}


class Silent(Section):
    order = 0
    template = "<h2>never shown</h2>"

    def values(self, run):
        return None


class Broken(Section):
    order = 166
    template = "{{ missing }}"

    def values(self, run):
        return {}


nothing = 3
'''


@pytest.fixture
def outside(tmp_path, monkeypatch) -> str:
    """A module of sections outside the package; its name."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "my_sections.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(package)
    registry.find.cache_clear()
    yield "my_sections"
    sys.modules.pop("my_sections", None)
    registry.find.cache_clear()


def test_every_section_keeps_the_contract():
    sections = run_page.sections_of([])
    assert len(sections) == len(registry.names("sections")) >= 18
    assert all(issubclass(section, Section) and section.__doc__ for section in sections)
    assert all(one.order < other.order for one, other in pairwise(sections))


def test_a_section_from_outside_stands_on_the_page(outside, tiny, tmp_path):
    names = [f"{outside}:{name}" for name in ("Broken", "Speed", "Silent")]
    folder = make_data(tmp_path)
    values = spec_of("fine-tuning", tiny("bert"), report={"sections": names})
    done = run.train(recipe.from_dict(values, folder), display=QUIET)
    html = (done.folder / "report.html").read_text("utf-8")
    page = check_page(html)
    assert f"{done.result['training']['steps']} steps of mine <script>alert(1)</script>" in page.text
    assert "<script" not in html
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings[headings.index("Data") :] == ["Data", "How fast", "Cost", "Reproduce"]
    assert "The section Broken failed: UndefinedError" in page.text
    # the folder may be somebody else's: what its recipe names is not imported
    assert "How fast" not in run_page.page(done.folder, done.result)


def test_a_name_that_stands_for_no_section_is_refused_before_training(outside, tiny, tmp_path):
    folder = make_data(tmp_path)
    names = [f"{outside}:Sped", f"{outside}:nothing", "no_such_module:Section", "scroes"]
    values = spec_of("fine-tuning", tiny("bert"), report={"sections": names})
    with pytest.raises(UserError) as caught:
        run.train(recipe.from_dict(values, folder), display=QUIET)
    said = str(caught.value)
    assert all(name in said for name in names)
    assert "did you mean" in said
    assert not Path(folder / values["output"]).exists()
