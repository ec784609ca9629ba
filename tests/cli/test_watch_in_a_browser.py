"""The live page in a real browser: it fits, says nothing to the console, and asks its own server alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keeltune.runs.result_shape import empty
from keeltune.utils.folder_lock import FolderLock
from tests.helpers.browser import Tab, browser
from tests.helpers.live import watching, write_run


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def check(tab: Tab, url: str) -> None:
    """What every page owes its reader, at every width."""
    assert tab.overflow() <= 0
    assert tab.complaints == []
    hosts = {urlsplit(asked).netloc for asked in tab.requests if not asked.startswith("data:")}
    assert hosts == {urlsplit(url).netloc}


def put(folder: Path, status: str) -> FolderLock | None:
    """A run of this status; its lock where somebody is at work."""
    if status == "waiting":
        return None
    write_run(folder)
    if status in ("stopped", "diverged", "failed"):
        (folder / "result.json").write_text(json.dumps(empty() | {"status": status}))
    if status not in ("preparing", "training", "finishing"):
        return None
    lock = FolderLock(folder)
    assert lock.take() is None
    changes = {"preparing": {"written": 0.0}, "finishing": {"training": False}}
    write_run(folder, **changes.get(status, {}))
    return lock


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "status", ["waiting", "preparing", "training", "finishing", "stopped", "diverged", "failed", "killed"]
)
def test_every_status_fits_every_screen(status, language, chromium, tmp_path):
    folder = tmp_path / "a-run-with-a-long-name-that-has-no-blank-in-it-and-goes-on"
    lock = put(folder, status)
    try:
        with watching(folder, language) as url:
            tab = chromium.tab()
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    tab.look(width, scheme=scheme)
                    tab.open(url)
                    tab.until("performance.getEntriesByType('resource').some(e => e.name.includes('state.json'))")
                    assert tab.value("document.documentElement.lang") == language
                    assert (tab.value("document.querySelectorAll('.chart').length") > 0) == (status != "waiting")
                    check(tab, url)
    finally:
        if lock is not None:
            lock.release()


def test_what_is_written_is_shown(chromium, tmp_path):
    lock = put(tmp_path / "run", "training")
    with watching(tmp_path / "run") as url:
        tab = chromium.tab()
        tab.open(url)
        tab.until("document.querySelector('progress').value === 40")
        tab.value("window.stays = document.getElementById('headline').firstChild; 1")
        write_run(tmp_path / "run", step=60)
        tab.until("document.querySelector('progress').value === 60")
        assert tab.value("document.title").startswith("38 % · run")
        assert tab.value("window.stays.isConnected")  # what has not changed is left as it is
        assert tab.value("document.querySelectorAll('.answered b').length") == 0  # a text, no markup
        check(tab, url)
    lock.release()


def test_a_page_that_nobody_looks_at_asks_for_nothing(chromium, tmp_path):
    with watching(tmp_path / "run") as url:
        tab = chromium.tab()
        script = "Object.defineProperty(document, 'visibilityState', {get: () => window.shown ?? 'hidden'})"
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        tab.open(url)
        chromium.listen(0.5)
        time.sleep(3)
        tab.value("1")
        assert not [asked for asked in tab.requests if "state.json" in asked]
        tab.value("window.shown = 'visible'; document.dispatchEvent(new Event('visibilitychange'))")
        deadline = time.monotonic() + 30
        while not [asked for asked in tab.requests if "state.json" in asked]:
            assert time.monotonic() < deadline
            tab.value("1")
        assert tab.complaints == []


def test_the_page_says_when_its_server_is_gone(chromium, tmp_path):
    tab = chromium.tab()
    with watching(tmp_path / "run") as url:
        tab.open(url)
        tab.until("performance.getEntriesByType('resource').length > 0")
        assert tab.value("document.getElementById('silent').hidden")
    tab.until("!document.getElementById('silent').hidden", seconds=60)
