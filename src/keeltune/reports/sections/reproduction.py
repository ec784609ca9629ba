from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.sections.section import Section


class Reproduction(Section):
    """The recipe, the versions and the machine: what makes the run again."""

    order = 180
    template = """\
<h2>{{ _("Reproduce") }}</h2>
<p>{{ _("keeltune train recipe.yaml, with:") }}</p>
<pre>{{ recipe }}</pre>
<p class="soft">{% for k, v in result.environment.items() -%}
{{ k }} {{ v }}{% if not loop.last %} · {% endif %}{% endfor %}</p>
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        return {"recipe": run.recipe_text}
