"""`keeltune watch`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from keeltune.recipe import load
from keeltune.reports import watch_page
from keeltune.reports.localization import Translator, translator
from keeltune.runs.live_run import LiveRun
from keeltune.utils.errors import Problem, UserError, shown
from keeltune.utils.files import open_regular
from keeltune.utils.language import chosen
from keeltune.utils.local_server import Answer, LocalServer, Page
from keeltune.utils.messages import languages
from keeltune.utils.stop_signals import StopAsked
from keeltune.utils.terminal import Terminal


def watch(
    run: Annotated[Path, typer.Argument(help="A run folder, or a recipe; it need not be there yet.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any that is free.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    language: Annotated[str | None, typer.Option(help="en or zh; without it the command's, or the run's.")] = None,
) -> None:
    """A page of this machine that shows a run while it trains: how far it is, its curves, its answers."""
    if language not in (None, *languages()):
        expected = " or ".join(languages())
        raise UserError(Problem("the call", "--language", shown(language), expected, "name one of them"))
    folder = _folder(run)
    server = LocalServer(pages(folder, language), port)
    console = Terminal()
    console.print(f"watching {folder}; Ctrl-C ends it")
    console.print(server.url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with _opened(server.url) if open_browser else nullcontext(), suppress(StopAsked):
        threading.Event().wait()
    server.shutdown()
    server.server_close()


def _folder(run: Path) -> Path:
    """The folder that is meant: the run's own, or that of a recipe's run."""
    if run.suffix in (".yaml", ".yml") and run.is_file():
        recipe = load(run)
        return recipe.path(recipe.output)
    if run.exists() and not run.is_dir():
        problem = Problem(str(run), "RUN", "a file that is no recipe", "a run folder, or a recipe", "correct the path")
        raise UserError(problem)
    return run


def pages(folder: Path, language: str | None) -> dict[str, Page]:
    """What the server answers: the page, what has changed of it, and a finished run's report."""
    live, one_at_a_time = LiveRun(folder), threading.Lock()
    spoken = language or (chosen() if chosen() != "en" else None)
    command = shlex.join(["keeltune", "train", str(folder / "recipe.yaml"), "--resume"])

    def state() -> tuple[watch_page.State, Translator]:
        with one_at_a_time:
            now = live.state()
        return now, translator(spoken or now["language"] or "en")

    def whole(query: Mapping[str, str]) -> Answer:
        now, say = state()
        html = watch_page.page(now, command, say)
        return Answer("text/html;charset=utf-8", html.encode(), watch_page.policy(html))

    def changed(query: Mapping[str, str]) -> Answer:
        now, say = state()
        told = watch_page.update(now, command, query.get("seen", ""), say)
        return Answer("application/json", json.dumps(told, allow_nan=False).encode())

    def report(query: Mapping[str, str]) -> Answer | None:
        if not state()[0]["report"]:
            return None
        with suppress(OSError), open_regular(folder / "report.html", folder) as stream:
            return Answer("text/html;charset=utf-8", stream.read(), watch_page.REPORT_POLICY)
        return None

    return {"": whole, "state.json": changed, "report.html": report}


@contextmanager
def _opened(url: str) -> Iterator[None]:
    """Within: the page is open in a browser, where there is a screen. The browser is handed a file of the user's own
    that leads to the address: what a program is started with, every user of the machine can see."""
    if not (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="keeltune-") as folder:
        file = Path(folder) / "watch.html"
        file.write_text(watch_page.leading_to(url), encoding="utf-8")
        webbrowser.open(file.as_uri())
        yield
