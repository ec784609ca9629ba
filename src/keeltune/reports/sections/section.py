"""The contract of a section of a run's page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from keeltune.reports.finished_run import FinishedRun


class Section(ABC):
    """One part of `report.html`, made from a finished run alone: its `result.json` and what its folder holds.

    A file of this folder with one final subclass is on every page at once; one from elsewhere is named in a recipe, as
    `report: {sections: [my_package.my_module:MySection]}`.

        class Speed(Section):
            order = 165                                                     # between data (160) and cost (170)
            template = "<h2>Speed</h2>\\n<p>{{ rate }} examples a second</p>"

            def values(self, run):
                return {"rate": round(run.result["training"]["examples_per_second"])}
    """

    order: ClassVar[float]
    """Where it stands: sections are sorted by this number."""

    template: ClassVar[str]
    """Jinja source. It sees what `values` returns, `result`, `units` (what intervals are over), `_` (says a sentence in
    the page's language) and the macros of `templates/macros.html`. Every value is escaped; a chart is a `Markup`."""

    @abstractmethod
    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        """What the template shows; None where there is nothing to say, and the section is left out."""
