from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.finished_run import FinishedRun
from keeltune.reports.localization import Translator
from keeltune.reports.sections.section import Section

WARNINGS = 20
"""Warnings of the data's audit that are shown."""

CHARTED = 20
"""Labels up to which each has a bar."""


class Data(Section):
    """The rows of each split: how many, how long, with which labels, and what the audit found."""

    order = 160
    template = """\
<h2>{{ _("Data") }}</h2>
<table>{{ heads(["split", "#rows", "fingerprint"]
                + (["#examples", "#rows that are cut", "#repeats", "#contradictory"] if audit else [])) }}
{% for split, d in result.data.items() if d is mapping -%}
<tr><td>{{ _(split) }}</td><td class="n">{{ d.rows }}</td><td>{{ d.fingerprint[:16] }}</td>
{%- if audit and split in audit.splits %}{% set s = audit.splits[split] %}<td class="n">{{ s.examples }}</td>
{%- for n in (s.truncated, s.repeated, s.conflicting) %}<td class="n">{{ n }}
{%- if n %} ({{ "%.3g"|format(100 * n / s.rows) }} %){% endif %}</td>{% endfor %}{% endif %}</tr>
{% endfor %}</table>
{% if audit %}
{% if label_chart %}<h3>{{ _("Rows with each label") }}</h3>
{{ label_chart }}{% endif %}
{% for sentence in many_labels %}<p>{{ sentence }}</p>
{% endfor %}
<h3>{{ _("Lengths") }}</h3>
<table>{{ heads(["split", "#shortest", "#25 %", "#median", "#75 %", "#95 %", "#longest"]) }}
{% for split, s in audit.splits.items() if s.lengths %}<tr><td>{{ _(split) }}</td>
{%- for n in s.lengths.values() %}<td class="n">{{ "%.4g"|format(n) }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p class="soft">{{ lengths }}</p>
{% if not audit.shared %}<p>{{ _("No input of an evaluation is in another split.") }}</p>{% endif %}
{% for w in audit.warnings[:shown_warnings] -%}
<p>{{ _("warning: {found}. Fix: {mend}.", found=w.found, mend=w.mend) -}}
{% if w.where not in w.found %} <span class="soft">{{ w.where }}</span>{% endif %}</p>
{% endfor %}
{% if audit.warnings|length > shown_warnings -%}
<p>{{ _("… and {n} more warnings, which are in result.json.", n=audit.warnings|length - shown_warnings) }}</p>
{%- endif %}
{% if not audit.warnings %}<p>{{ _("The audit has no warnings.") }}</p>{% endif %}
{% if audit.skipped %}<p>{{ _("Skipped rows: ") }}{% for kind, n in audit.skipped.items() -%}
{{ _(kind) }} {{ n }}{% if not loop.last %}{{ _(", ") }}{% endif %}{% endfor %}</p>{% endif %}
{% endif %}
"""

    def values(self, run: FinishedRun) -> Mapping[str, Any]:
        say, audit = run.say, run.result.get("audit")
        few, many = _labels(audit)
        many_labels = [
            say(
                "{split}: {n} labels, in {least} to {most} rows each.",
                split=say(split), n=len(counts), least=min(counts.values()), most=max(counts.values()),
            )
            for split, counts in many.items()
        ]  # fmt: skip
        lengths = say(
            "Lengths of examples in tokens or frames, as the model reads them. Repeats are rows that stand there "
            "already; contradictory ones have another row's input and a different label."
        )
        return {
            "audit": audit,
            "label_chart": Markup(_label_chart(few, audit, say)) if audit and few else None,
            "many_labels": many_labels,
            "lengths": lengths,
            "shown_warnings": WARNINGS,
        }


def _labels(audit: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The splits' label counts: those that are charted, and those of too many labels for it."""
    counts = {name: split["labels"] for name, split in audit["splits"].items() if split["labels"]} if audit else {}
    labels = set[str]().union(*counts.values())
    return (counts, {}) if len(labels) <= CHARTED else ({}, counts)


def _label_chart(counts: Mapping[str, Any], audit: Mapping[str, Any], say: Translator) -> str:
    """Each split's rows with each label, and their share of the split's rows."""
    rows = {say(name): audit["splits"][name]["rows"] for name in counts}
    return charts.shares({say(name): labels for name, labels in counts.items()}, rows)
