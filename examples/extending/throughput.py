"""A report section of your own: one final class in a module of your own package.

report: {sections: ["my_package.throughput:Throughput"]}
"""

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Throughput(Section):
    """How fast it trained, and how much of what was read was padding."""

    order = 165  # between the data (160) and the cost (170)
    template = """\
<h2>Throughput</h2>
<p>{{ rate }} examples a second; {{ padding }} % of what the model read was padding.</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any] | None:
        training = run.result["training"]
        if not training or not training["examples_per_second"]:
            return None  # nothing to say: the section is left out
        rate, padding = training["examples_per_second"], training["padding_share"]
        return {"rate": round(rate), "padding": round(100 * padding)}
