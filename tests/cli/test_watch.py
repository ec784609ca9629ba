"""`keeltune watch` as its user meets it: beside a training, in a real browser, asked by others, ended by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keeltune import recipe
from keeltune.runs import run, run_folder
from keeltune.runs.output_folder import PROGRESS
from keeltune.utils.errors import Stopped
from keeltune.utils.local_server import LocalServer
from tests.helpers import processes
from tests.helpers.browser import browser
from tests.helpers.command import keeltune
from tests.helpers.live import watching
from tests.helpers.runs import QUIET, make_data, reviews, spec_of, train, write_rows


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def spec(tiny, **changes) -> dict:
    """A distillation that is scored often, its validation rows' texts being markup."""
    values = spec_of("distillation", tiny("bert"), reference=str(tiny("bert", seed=1)))
    values["training"] = {"batch_size": 8, "max_steps": 15, "precision": "fp32", "logging_steps": 1}
    return values | {"evaluation": {"every": 3}, **changes}


@pytest.fixture
def data(tmp_path) -> Path:
    folder = make_data(tmp_path)
    rows = [{**row, "text": f"<script>alert(1)</script> {row['text']}"} for row in reviews(12, seed=5)]
    write_rows(folder / "validation.jsonl", rows)
    return folder


def test_a_training_is_watched_from_before_its_start_to_its_report(tiny, data):
    """Several ask at once while it trains; what they are told only moves on, and ends with what the run says."""
    ended, told = threading.Event(), []

    def look() -> list[dict]:
        states, seen = [], ""
        while True:
            last = ended.is_set()
            status, body = get(f"{url}state.json?seen={seen}")
            assert status == 200
            states.append(json.loads(body))
            seen = states[-1]["seen"]
            if last:
                return states

    with watching(data / "out") as url, ThreadPoolExecutor(3) as pool:
        assert "waits for it to begin" in get(url)[1]
        assert get(f"{url}report.html")[0] == 404
        lookers = [pool.submit(look) for _ in range(3)]
        try:
            done = train(spec(tiny), data)
        finally:
            ended.set()
        told = [looker.result() for looker in lookers]
        html = get(url)[1]
        status, report = get(f"{url}report.html")
    order = ["waiting", "preparing", "training", "finishing", "completed"]
    for states in told:
        said = list(dict.fromkeys(state["status"] for state in states))
        assert said == sorted(said, key=order.index)
        assert {"training", "completed"} <= set(said)
        steps = [state["step"] or 0 for state in states]
        assert steps == sorted(steps)
        assert steps[-1] == 15
    assert (status, report) == (200, (done.folder / "report.html").read_text("utf-8"))
    for word in ("It is finished.", "15 of 15 (100 %)", "divergence", "accuracy", "after step 15", "report.html"):
        assert word in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<script") == 1
    shown = json.loads((done.folder / PROGRESS).read_text("utf-8"))["samples"]
    assert len(shown["rows"]) == 6
    assert all(set(row) == {"row", "inputs", "prediction", "gold", "score"} for row in shown["rows"])
    assert {row["prediction"] for row in shown["rows"]} <= {"negative", "positive"}


def test_a_run_that_was_stopped_says_so_and_goes_on(tiny, data, monkeypatch):
    from keeltune.runs import fit
    from keeltune.runs.training_log import Watcher

    whole = Watcher.on_step_end

    def stop_at_7(self, args, state, control, **kwargs):
        whole(self, args, state, control, **kwargs)
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    assert fit.Watcher is Watcher
    with watching(data / "out") as url:
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Watcher, "on_step_end", stop_at_7)
            train(spec(tiny), data)
        html = get(url)[1]
        assert "It was stopped, and can go on." in html
        assert f"keeltune train {data / 'out' / 'recipe.yaml'} --resume" in html
        assert re.search(r"[78] of 15", html)
        run.train(recipe.from_dict(spec(tiny), data), resume=True, display=QUIET)
        html = get(url)[1]
        assert "15 of 15" in html
        assert "It is finished." in html


def test_another_start_over_removes_it_too(tiny, data):
    done = train(spec(tiny), data)
    assert (done.folder / PROGRESS).is_file()
    short = spec(tiny, evaluation={}) | {"data": {"train": "train.jsonl"}}
    again = run.train(recipe.from_dict(short, data), overwrite=True, display=QUIET)
    assert json.loads((again.folder / PROGRESS).read_text("utf-8"))["samples"] is None  # no validation rows


def test_several_seeds_are_watched_as_one(tiny, data):
    values = spec(tiny)
    values["training"] |= {"seed": [0, 1], "max_steps": 6}
    done = train(values, data)
    with watching(done.folder, "zh") as url:
        html = get(url)[1]
    assert "seed-0: 训练已完成。" in html
    assert "seed-1: 训练已完成。" in html
    assert "6 / 6（100 %）" in html


def test_the_command_serves_until_it_is_stopped(tmp_path):
    """A process of its own; Ctrl-C is how it is meant to end."""
    started = processes.start(
        processes.command, "watch", str(tmp_path / "not-there"), "--no-open", output=tmp_path / "said.log"
    )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", started.text)):
            assert time.monotonic() < deadline, started.text
            time.sleep(0.1)
        parts = urlsplit(found[0])
        assert get(found[0])[0] == 200
        assert "not-there" in get(found[0])[1]
        assert get(f"http://{parts.netloc}/")[0] == 404
        assert get(found[0], Host="rebound.example")[0] == 403
        assert get(f"{found[0]}../../etc/passwd")[0] == 404
        assert json.loads(get(f"{found[0]}state.json")[1])["status"] == "waiting"
        os.kill(started.process.pid, signal.SIGINT)
        assert started.wait(60) == 0
    finally:
        started.process.kill()
    assert not (tmp_path / "not-there").exists()  # it makes nothing


def test_a_recipe_stands_for_its_run(tmp_path, tiny, monkeypatch, capsys):
    from keeltune.cli import watch

    (tmp_path / "recipe.yaml").write_text(
        f"task: sentiment-analysis\nmethod: fine-tuning\nmodel: {tiny('bert')}\n"
        "output: runs/a\ndata: {train: t.jsonl}\n"
    )
    assert watch._folder(tmp_path / "recipe.yaml") == tmp_path / "runs" / "a"
    (tmp_path / "notes.txt").write_text("x")
    assert keeltune(monkeypatch, "watch", tmp_path / "notes.txt") == 2
    assert "a run folder, or a recipe" in capsys.readouterr().err
    assert keeltune(monkeypatch, "watch", tmp_path, "--language", "fr") == 2
    with LocalServer({}) as taken:
        assert keeltune(monkeypatch, "watch", tmp_path, "--port", str(taken.server_address[1])) == 2


def test_the_secret_is_in_no_argument_of_the_browser(monkeypatch):
    """Every user of the machine can see what a program was started with."""
    from keeltune.cli import watch

    opened = []
    monkeypatch.setattr(watch.webbrowser, "open", lambda url: opened.append((url, Path(urlsplit(url).path))))
    monkeypatch.setenv("DISPLAY", ":0")
    with watch._opened("http://127.0.0.1:1/secret/"):
        ((url, file),) = opened
        assert "secret" not in url
        assert "http://127.0.0.1:1/secret/" in file.read_text()
        assert file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(watch.sys, "platform", "linux")
    with watch._opened("http://127.0.0.1:1/secret/"):
        assert len(opened) == 1  # no screen: a browser of the terminal would take it over


# In a real browser


def train_slowly(values: dict, folder: Path, until: threading.Event) -> run_folder.Run:
    """A training that waits at step 10 to be looked at."""
    from keeltune.runs.training_log import Watcher

    whole = Watcher.on_step_end

    def waits(self, args, state, control, **kwargs):
        whole(self, args, state, control, **kwargs)
        if state.global_step == 10:
            self.progress.written = -1e9  # told now, not after the second
            self.progress.move(10)
            until.wait(120)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watcher, "on_step_end", waits)
        return train(values, folder)


def test_in_a_real_browser(tiny, data, tmp_path):
    looked, done = threading.Event(), []
    (data / "out").mkdir()
    with watching(data / "out") as url, browser(tmp_path / "profile") as chromium:
        tab = chromium.tab()
        tab.look(1280)
        tab.open(url)
        tab.until("document.body.innerText.includes('waits for it to begin')")
        training = threading.Thread(target=lambda: done.append(train_slowly(spec(tiny), data, looked)))
        training.start()
        try:
            tab.until("document.querySelector('progress')?.value === 10")
            assert tab.value("document.title").startswith("67 % · out")
            for width in (1280, 390):
                for scheme, dark in (("light", False), ("dark", True)):
                    tab.look(width, scheme=scheme)
                    background = tab.value("getComputedStyle(document.body).backgroundColor")
                    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark
                    assert tab.overflow() <= 0, width
                    tab.picture(tmp_path / f"{width}-{scheme}.png")
            assert tab.value("document.querySelectorAll('.chart svg').length") >= 4
            assert tab.value("document.querySelectorAll('.answered').length") == 6
            assert "<script>alert(1)</script>" in tab.value("document.body.innerText")
            hidden = len(tab.requests)
            tab.call("Emulation.setFocusEmulationEnabled", enabled=False)
        finally:
            looked.set()
            training.join(240)
        tab.until("document.body.innerText.includes('It is finished.')")
        assert len(tab.requests) > hidden
        tab.value("document.querySelector('a').click()")
        tab.until("location.href.endsWith('report.html') && document.querySelectorAll('svg').length > 2")
        assert done[0].result["status"] == "completed"
        assert tab.complaints == []
        assert {urlsplit(asked).netloc for asked in tab.requests if not asked.startswith("data:")} == {
            urlsplit(url).netloc
        }
