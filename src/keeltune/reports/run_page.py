"""The run's page: self-contained, every word of the user's data escaped, readable in print and on a phone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from keeltune.data.clusters import FEW_CLUSTERS
from keeltune.evaluation import slices, test_set_looks
from keeltune.recipe import parse
from keeltune.recipe.fields import Recipe
from keeltune.reports import charts, groups, training_curves, uncertainty
from keeltune.reports.findings import forgetting, overfitting, overruled_labels, teacher
from keeltune.reports.localization import Say, translator
from keeltune.reports.uncertainty import Over, mark
from keeltune.utils.errors import UserError
from keeltune.utils.files import read_lines
from keeltune.utils.messages import Message, joined

WORST = 10

WARNINGS = 20
"""Warnings of the data's audit that are shown."""

CHARTED = 20
"""Labels up to which each has a bar."""

SENTENCES = {
    "fine-tuning": "The model was fine-tuned on the training rows, without a reference.",
    "distillation": "The model was trained on the training rows while held near a teacher.",
    "cross-domain": "The model was trained on the new domain while held near the source-domain model.",
}

REGULARIZERS = {
    "layer_decay": "lower learning rates in lower layers ({value} a layer)",
    "r_drop": "R-Drop ({value})",
    "weight_average": "averaged weights ({value})",
    "label_smoothing": "label smoothing ({value})",
    "fgm": "moved embeddings (FGM, {value})",
    "new_top_layers": "new top layers ({value})",
    "freeze_embeddings": "frozen token embeddings",
}
"""What a run says of each regulariser that was on."""


def regularized(result: dict[str, Any]) -> str:
    """Which regularisers were on, in a sentence; nothing where there were none."""
    used = (result["training"] or {}).get("regularizers") or {}
    parts = [Message(REGULARIZERS[name], value=value if isinstance(value, str) else f"{value:g}")
             for name, value in used.items()]  # fmt: skip
    return Message("Regularised by: {parts}.", parts=joined(parts, ", ")) if parts else ""


def page(folder: Path, result: dict[str, Any]) -> str:
    """`report.html` of a finished run, from its `result.json`, `log.jsonl`, `recipe.yaml` and predictions."""
    forgotten = result["forgetting"] or {}
    calibrated = {name: found for name, found in (result["calibration"] or {}).items() if found}
    source = forgotten.get("source") or forgotten.get("control") or {}
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    made = read(recipe)
    say = translator(made.report.language if made else "en")
    parts = [folder / name for name in result["seeds"]["folders"]] if result["seeds"] else [folder]
    over = uncertainty.over(made.evaluation.clusters if made else None, [part / "predictions" for part in parts])
    changed = {**({"label": source["by_label"]} if source.get("by_label") else {}), **source.get("slices", {})}
    few, many = _labels(result.get("audit"))
    return (
        environment(say)
        .get_template("report.html")
        .render(
            name=folder.name,
            result=result,
            sentence=SENTENCES[result["method"]],
            regularized=regularized(result),
            scores=_scores(result, over),
            over=over,
            few_clusters=FEW_CLUSTERS,
            looks=test_set_looks.looks_at_test(folder, result),
            interval_chart=Markup(_interval_chart(result, over, say)),
            reliability_chart=Markup(_reliability_chart(calibrated, say)) if calibrated else None,
            calibration_temperature=((result["calibration"] or {}).get("validation") or {}).get("temperature"),
            learning=[Markup(chart) for chart in training_curves.pictures(folder, result, say)],
            by_label=(result["metrics"]["test"] or {}).get("by_label"),
            kept_weights=overfitting.averaged_weights(result),
            teacher=teacher.findings(result["reference"]["gate"]),
            forgetting=forgetting.findings(result),
            domain_chart=Markup(_domain_chart(forgotten, over, say)),
            path_chart=Markup(_path_chart(result, say)) if (result["interpolation"] or {}).get("points") else None,
            budget_chart=Markup(_budget_chart(result, say)) if result["budget"] else None,
            slices=changed,
            called=groups.names(changed, result["task"], say),
            lost=(source.get("lost") or [])[:WORST],
            lost_count=len(source.get("lost") or []),
            groups=groups.columns(result, say),
            enough={"rows": slices.SMALL, "bare": slices.BARE, "clusters": FEW_CLUSTERS},
            built_in_terms=made is None or made.evaluation.terms is None,
            veto=overruled_labels.findings(result["veto"], taught=result["method"] == "distillation"),
            worst=_worst(folder),
            recipe=recipe,
            audit=result.get("audit"),
            label_chart=Markup(_label_chart(few, result["audit"], say)) if few else None,
            many_labels=many,
            shown_warnings=WARNINGS,
        )
    )


def read(recipe: str) -> Recipe | None:
    """A recipe of its text; None where it cannot be read, as one of another version."""
    try:
        return parse(recipe, folder=".")
    except UserError:
        return None


@cache
def environment(say: Say | None = None) -> Environment:
    """The templates; every value in them is escaped, and none may be missing. `_` is `say`.

    One for each language, and so each template is compiled once.
    """
    loader = PackageLoader("keeltune.reports", "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    made.globals |= {"_": say or translator("en")}
    return made


def _domain_chart(forgotten: dict[str, Any], over: Over, say: Say) -> str:
    """The primary metric's change in each domain, with its interval."""
    bars = [
        (
            f"{say(name)}: {found['metric']}{mark(over.few, found['split'])}",
            *((each := found["metrics"][found["metric"]])["change"], *each["interval"]),
        )
        for name, found in forgotten.items()
        if name in ("source", "control", "target") and found
    ]
    return charts.ranges(bars, say("change since before training, 95 % interval")) if bars else ""


def _path_chart(result: dict[str, Any], say: Say) -> str:
    """Target against source at each point between the start's weights and the tuned ones."""
    found = result["interpolation"]
    return charts.plane(
        path_places(found), f"{say('source')} {found['metric']}", f"{say('target')} {found['metric']}", 280
    )


def path_places(found: dict[str, Any]) -> list[charts.Place]:
    """The points of a weight path, on validation rows, named by their share."""
    metric = found["metric"]
    return [charts.Place(f"{p['share']:g}", (p["source"][metric],), (p["target"][metric],)) for p in found["points"]]


def _budget_chart(result: dict[str, Any], say: Say) -> str:
    """What a budget bounds, and the weight that held it, over the steps."""
    budget = result["budget"]
    steps = budget["trajectory"]
    limit = [(step, budget["limit"]) for step, _, _ in steps]
    bounded = {budget["kind"]: [(s, v) for s, v, _ in steps], say("limit"): limit}
    held = charts.lines(bounded, say("step"), budget["kind"])
    return held + charts.lines({say("weight"): [(s, w) for s, _, w in steps]}, say("step"), say("weight"))


def _labels(audit: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The splits' label counts: those that are charted, and those of too many labels for it."""
    found = {name: one["labels"] for name, one in audit["splits"].items() if one["labels"]} if audit else {}
    everything = set[str]().union(*found.values())
    return (found, {}) if len(everything) <= CHARTED else ({}, found)


def _label_chart(found: dict[str, Any], audit: dict[str, Any], say: Say) -> str:
    """Each split's rows with each label, and their share of the split's rows."""
    counts = {say(name): labels for name, labels in found.items()}
    return charts.shares(counts, {say(name): audit["splits"][name]["rows"] for name in found})


def _reliability_chart(found: dict[str, Any], say: Say) -> str:
    """Accuracy against confidence; the diagonal is where they agree."""
    series = {say(name): [(c, a) for c, a, _ in each["bins"]] for name, each in found.items()}
    ends = [c for points in series.values() for c, _ in points]
    series[say("as sure as right")] = [(min(ends), min(ends)), (max(ends), max(ends))]
    return charts.lines(series, say("confidence"), say("accuracy"))


def _scores(result: dict[str, Any], over: Over) -> list[dict[str, Any]]:
    """One line a split and metric: before, after, the interval after, and its clusters where they are too few."""
    metrics, intervals = result["metrics"], result["intervals"]
    splits = [
        ("validation", metrics["before"]["validation"], metrics["validation"], intervals["validation"]),
        ("test", metrics["before"]["test"], metrics["test"], intervals["test"]),
        ("source", metrics["source"]["before"], metrics["source"]["after"], intervals["source"]["after"]),
    ]
    return [
        {
            "split": "source domain, test" if split == "source" else split,
            "metric": name,
            "before": before.get(name) if before else None,
            "after": value,
            "interval": (ranges or {}).get(name),
            "few": over.few.get(split),
        }
        for split, before, after, ranges in splits
        for name, value in (after or {}).items()
        if isinstance(value, float)
    ]


def _interval_chart(result: dict[str, Any], over: Over, say: Say) -> str:
    """The primary metric of each split with its interval, before and after."""
    bars = []
    for split in ("validation", "test", "source"):
        metrics = result["metrics"][split]
        pairs = (
            [
                (say(f"source, {when}"), metrics[when], result["intervals"]["source"][when])
                for when in ("before", "after")
            ]
            if split == "source"
            else [(say(split), metrics, result["intervals"][split])]
        )
        for name, values, ranges in pairs:
            if values:
                primary = next(iter(values))
                bars.append((f"{name}: {primary}{mark(over.few, split)}", values[primary], *ranges[primary]))
    return charts.ranges(bars, _drawn(bool(result["seeds"]), over, say)) if bars else ""


def _drawn(seeds: bool, over: Over, say: Say) -> str:
    """What a bootstrap interval's draws are of."""
    if over.column is None:
        return say("95 % bootstrap interval over rows and seeds") if seeds else say("95 % bootstrap interval over rows")
    if seeds:
        return say("95 % bootstrap interval over clusters of {column} and seeds", column=over.column)
    return say("95 % bootstrap interval over clusters of {column}", column=over.column)


def _worst(folder: Path) -> list[dict[str, Any]]:
    """The test rows whose wrong answer the model was surest of."""
    lines = read_lines(folder / "predictions" / "test.jsonl")
    wrong = [line for line in lines if line["score"] < 1 and "probabilities" in line]
    return sorted(wrong, key=lambda line: -max(line["probabilities"].values()))[:WORST]
