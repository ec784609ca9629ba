"""The live page: each status in both languages, nothing of the user's data as markup, and only what has changed."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from keeltune.reports import watch_page
from keeltune.reports.localization import translator
from keeltune.reports.watch_page import PARTS, STATUSES, duration
from tests.helpers.pages import CHINESE, Page

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>\u202e"
ENGLISH, ZH = translator("en"), translator("zh")
COMMAND = "keeltune train 'run/recipe.yaml' --resume"


def state(status: str = "training", **changes) -> dict:
    log = [{"step": 10 * n, "epoch": n / 4, "cross_entropy": 2 / n, "divergence": 1 / n, "learning_rate": 1e-5 * n}
           for n in range(1, 5)]  # fmt: skip
    log += [{"step": 20 * n, "eval_loss": 1 / n, "eval_accuracy": 0.4 * n, "eval_perplexity": 30.0} for n in (1, 2)]
    row = {"row": "3", "inputs": {"text": HOSTILE}, "prediction": HOSTILE, "gold": "right", "score": 0.0}
    known = {
        "name": "run", "status": status, "owner": None, "task": "sentiment-analysis", "method": "distillation",
        "language": "en", "seeds": [], "seed": None, "step": 40, "steps": 160, "seconds_left": 65.0,
        "steps_per_second": 2.0, "memory": {"now": 3 * 2**30, "peak": 4 * 2**30}, "held": [[1, 2**30], [40, 2**31]],
        "samples": {"step": 40, "rows": [row]}, "log": log, "metrics": {}, "report": False,
    }  # fmt: skip
    return known | changes


def text(html: str) -> str:
    return " ".join(" ".join(Page(html).words).split())


def test_it_shows_how_far_it_is_its_curves_and_its_answers():
    html = watch_page.page(state(), COMMAND, ENGLISH)
    page = Page(html)
    assert page.open == []
    said = text(html)
    for part in ("It is training.", "40 of 160 (25 %)", "1 min 5 s", "4e-05", "3.00 GiB", "4.00 GiB", "as they are "
                 "answered after step 40", "Row 3, score 0", "cross-entropy", "divergence", "perplexity"):  # fmt: skip
        assert part in said, part
    charts = 6  # losses, the reference's term, shares, perplexity, learning rate, memory
    assert html.count('class="chart"') == charts
    assert [a for tag, a in page.tags if tag == "progress"] == [
        {"max": "160", "value": "40", "aria-label": "share of the steps"}
    ]
    assert "25 % · run · keeltune" in said  # the tab's name
    assert COMMAND not in said
    assert "None" not in said


def test_what_is_not_there_leaves_no_empty_place():
    bare = state(
        "waiting", log=[], samples=None, memory=None, held=None, step=None, steps=None, seconds_left=None, task=None
    )
    html = watch_page.page(bare, COMMAND, ENGLISH)
    assert html.count("<svg") == html.count("<progress") == html.count("<dl") == html.count("<h2") == 0
    assert "this page waits for it to begin" in text(html)


def test_the_users_words_stay_text():
    html = watch_page.page(state(name=HOSTILE, seeds=[{"name": HOSTILE, "status": "training"}]), HOSTILE, ENGLISH)
    assert html.count("<script") == html.count("</script>") == 1
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "iframe", "object", "form", "base"})
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert page.text.count("<img src=x onerror=alert(1)>") >= 4
    assert "\u202e" not in html  # a text that turns around is spelt out


def test_the_policy_allows_the_pages_own_script_alone():
    html = watch_page.page(state(), COMMAND, ENGLISH)
    policy = dict(part.split(" ", 1) for part in watch_page.policy(html).split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["style-src-elem"].count("sha256-") == html.count("<style>") == 2
    assert "unsafe" not in policy["script-src"] + policy["style-src-elem"]
    assert not re.findall(r"https?://", html)
    assert "http-equiv" not in html  # the server's header is the only one


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_said_in_both_languages(status):
    now = state(status)
    assert STATUSES[status][1] in text(watch_page.page(now, COMMAND, ENGLISH))
    html = watch_page.page({**now, "samples": None}, COMMAND, ZH)
    chinese = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    said = text(chinese)
    assert CHINESE[STATUSES[status][1]] in said
    own = said.replace(COMMAND, "").replace("keeltune watch", "")
    assert re.findall(r"(?:[A-Za-z]{2,} ){2,}[A-Za-z]{2,}", own) == []
    for word in ("学习率", "内存", "验证集上的成绩", "参考模型", "准确率", "1 分 5 秒"):
        assert word in said
    goes_on = status in ("stopped", "killed")
    assert (COMMAND in said) == goes_on


def test_a_finished_run_leads_to_its_report():
    metrics = {"test": {"accuracy": 0.9, "loss": 1.0}}
    html = watch_page.page(state("completed", report=True, metrics=metrics), "", ENGLISH)
    assert [a for tag, a in Page(html).tags if tag == "a"] == [{"href": "report.html"}]
    assert "test: accuracy 0.9000" in text(html)
    assert 'href="report.html"' not in watch_page.page(state("completed"), "", ENGLISH)


def test_only_what_has_changed_is_told():
    first = watch_page.update(state(), COMMAND, "", ENGLISH)
    assert tuple(first["parts"]) == PARTS
    again = watch_page.update(state(), COMMAND, first["seen"], ENGLISH)
    assert again["parts"] == {}
    assert again["seen"] == first["seen"]
    later = watch_page.update(state(step=41), COMMAND, first["seen"], ENGLISH)
    assert list(later["parts"]) == ["progress"]
    assert (later["status"], later["step"], later["steps"], later["again"]) == ("training", 41, 160, 2)
    ended = watch_page.update(state("completed"), COMMAND, later["seen"], ENGLISH)
    assert ended["again"] > 2
    assert list(watch_page.update(state(), COMMAND, "x-y-z-…-<b>", ENGLISH)["parts"]) == list(PARTS)


def test_the_page_itself_says_what_it_holds():
    """Its first look replaces nothing that it shows already."""
    (silent,) = [a for tag, a in Page(watch_page.page(state(), COMMAND, ENGLISH)).tags if a.get("id") == "silent"]
    assert watch_page.update(state(), COMMAND, silent["data-seen"], ENGLISH)["parts"] == {}


def test_it_stays_small_however_long_the_log_is():
    log = [{"step": n, "loss": 1.0 / n, "cross_entropy": 1.0 / n, "learning_rate": 1e-5} for n in range(1, 20_001)]
    told = watch_page.update(state(log=log), COMMAND, "", ENGLISH)
    assert sum(map(len, told["parts"].values())) < 60_000


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")]
)
def test_a_time_has_two_units_at_most(seconds, said):
    assert duration(seconds) == said
