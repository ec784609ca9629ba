"""The page of `keeltune watch`: a run as it stands now, made anew of what its folder says (`runs.live_run`).

    headline    whether it trains, waits, has ended, and how
    progress    step, time left, learning rate, memory
    curves      losses, the reference's term, scores, learning rate, memory, as a report draws them
    samples     validation rows with the model's answers

Each part is HTML of its own, so that the page fetches those alone that have changed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from keeltune.reports import charts
from keeltune.reports.localization import Translator
from keeltune.reports.templating import environment
from keeltune.utils.messages import Message

State = Mapping[str, Any]
"""What `LiveRun.state` returns."""

PARTS = ("headline", "progress", "curves", "samples")

STATUSES = {
    "waiting": ("amber", Message("Nothing of a run is here yet; this page waits for it to begin.")),
    "preparing": ("green", Message("It is being prepared: data, model, the scores of the start.")),
    "training": ("green", Message("It is training.")),
    "finishing": ("green", Message("Its steps are done; the model is being scored and saved.")),
    "completed": ("green", Message("It is finished.")),
    "stopped": ("amber", Message("It was stopped, and can go on.")),
    "diverged": ("red", Message("It diverged.")),
    "failed": ("red", Message("It ended early, by an error.")),
    "killed": ("red", Message("It ended without a word: it was killed, or the machine went down.")),
}
"""What is said of each status, and its light."""

GIB = 2**30

DRAWN = 300
"""Points of a curve, about."""

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
"""What a finished run's report may load: nothing, as it says itself."""


def leading_to(url: str) -> str:
    """A page that goes to another one at once."""
    return f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">'


def page(state: State, command: str, say: Translator) -> str:
    """The whole page. `command`: with which an ended run goes on."""
    template, made = environment(say).get_template("watch.html"), parts(state, command, say)
    return template.render(state=state, title=title(state), parts=made, seen="-".join(_marks(made).values()))


def policy(html: str) -> str:
    """The page's Content-Security-Policy: its own script and styles, by their digests, and what its server answers."""
    scripts, styles = (
        " ".join(f"'sha256-{_digest(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL))
        for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {scripts}; style-src-elem {styles}; style-src-attr 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def update(state: State, command: str, seen: str, say: Translator) -> dict[str, Any]:
    """What has changed since `seen`, which the page or an earlier update told: {"seen", "title", "again": seconds until
    the next one, "status", "step", "steps", "seconds_left", "parts": {name: HTML}}."""
    made = parts(state, command, say)
    marks = _marks(made)
    known = dict(zip(PARTS, seen.split("-"), strict=False))
    at_work = state["status"] in ("preparing", "training", "finishing")
    return {
        "seen": "-".join(marks.values()),
        "title": title(state),
        "again": 2 if at_work else 5,
        **{name: state[name] for name in ("status", "step", "steps", "seconds_left")},
        "parts": {name: html for name, html in made.items() if known.get(name) != marks[name]},
    }


def _marks(made: Mapping[str, str]) -> dict[str, str]:
    """By what each part is known again."""
    return {name: hashlib.sha256(html.encode()).hexdigest()[:8] for name, html in made.items()}


def title(state: State) -> str:
    """The page's name, in which a tab shows how far the run is."""
    done = f"{_percent(state)} · " if state["status"] == "training" and state["steps"] else ""
    return f"{done}{state['name']}"


def parts(state: State, command: str, say: Translator) -> dict[str, Markup]:
    """Each part's HTML."""
    pages = environment(say)
    light, said = STATUSES[state["status"]]
    values: dict[str, dict[str, Any]] = {
        "headline": {
            "light": light,
            "said": said,
            "command": command if state["status"] in ("stopped", "killed") else "",
        },
        "progress": {"facts": list(_facts(state)), "statuses": STATUSES},
        "curves": {"charts": [(heading, Markup(chart)) for heading, chart in _charts(state, say)]},
        "samples": {"samples": state["samples"]},
    }
    return {
        name: Markup(pages.get_template(f"watch_{name}.html").render(state=state, **values[name]).strip())
        for name in PARTS
    }


def _percent(state: State) -> str:
    return f"{100 * state['step'] / state['steps']:.0f} %"


def _facts(state: State) -> Iterator[tuple[str, str]]:
    """What is known in numbers: each one's name, and its value as it is written."""
    if state["steps"]:
        template = "{step} of {steps} ({share})"
        yield "step", Message(template, step=state["step"], steps=state["steps"], share=_percent(state))
    if state["seconds_left"] is not None:
        yield "time left", duration(state["seconds_left"])
        yield "steps a second", f"{state['steps_per_second']:.3g}"
    for key, name in {"learning_rate": "learning rate", "epoch": "epoch"}.items():
        if values := [entry[key] for entry in state["log"] if key in entry]:
            yield name, f"{values[-1]:.3g}"
    for key, name in {"now": "memory", "peak": "memory at most"}.items():
        if (state["memory"] or {}).get(key):
            yield name, f"{state['memory'][key] / GIB:.2f} GiB"
    for split, metrics in state["metrics"].items():
        for metric, value in list(metrics.items())[:1]:
            yield Message("{split}: {metric}", split=Message(split), metric=metric), f"{value:.4f}"


def duration(seconds: float) -> Message:
    """A time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return Message("{h} h {m} min", h=hours, m=minutes)
    return Message("{m} min {s} s", m=minutes, s=rest) if minutes else Message("{s} s", s=rest)


def _charts(state: State, say: Translator) -> Iterator[tuple[str, str]]:
    """A heading and a picture for each quantity that was logged."""
    log, step = state["log"], say("step")

    def drawn(heading: str, series: Mapping[str, Sequence[charts.Point]], unit: str) -> Iterator[tuple[str, str]]:
        if any(series.values()):
            yield heading, charts.lines({say(name): points for name, points in series.items()}, step, unit)

    nats = say("nats a prediction")
    losses = {"cross-entropy": "cross_entropy", "validation": "eval_loss"}
    yield from drawn("Loss", {name: _points(log, key) for name, key in losses.items()}, nats)
    terms = {"divergence": "divergence", "matching": "matching"}
    yield from drawn("Reference", {name: _points(log, key) for name, key in terms.items()}, nats)
    scores = {
        key.removeprefix("eval_"): _points(log, key)
        for key in dict.fromkeys(key for entry in log for key in entry)
        if key.startswith("eval_") and key != "eval_loss"
    }
    shares = {name: points for name, points in scores.items() if all(0 <= value <= 1 for _, value in points)}
    yield from drawn("Scores of the validation rows", shares, say("score"))
    for name in scores.keys() - shares.keys():  # each in its own unit
        yield from drawn("Scores of the validation rows", {name: scores[name]}, say(name))
    yield from drawn("Learning rate", {"learning rate": _points(log, "learning_rate")}, say("learning rate"))
    held = [(step, memory / GIB) for step, memory in state["held"] or [] if len(state["held"]) > 1]
    yield from drawn("Memory", {"memory": held}, "GiB")


def _points(log: Sequence[Mapping[str, Any]], key: str) -> list[charts.Point]:
    """A quantity step by step: of a long log every n-th point, and the last one, so that what is sent stays small."""
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    every = -(-len(points) // DRAWN)
    return points if every < 2 else [*points[:-1:every], points[-1]]
