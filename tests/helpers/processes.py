"""Processes of their own that need not import torch anew: forks of a server which has, one for each test process.

A test that is about starting Python, or about an environment that Python reads when it starts, still starts one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from keeltune.cli import app

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "transformers", "keeltune.cli.app", "keeltune.runs.run", "keeltune.training.trainer",
     "keeltune.training.build", "keeltune.runs.conclusion", "keeltune.reports.run_page",
     "keeltune.evaluation.audit_report", "tests.helpers.models"]
)  # fmt: skip
"""All that a training imports when it is needed: none of the forks has to, which takes longer than what they do."""


@dataclass
class Forked:
    """A running child and the file of what it writes to both of its streams."""

    process: BaseProcess
    file: Path

    def wait(self, seconds: float = 180) -> int:
        """Its exit status: minus the signal's number where one ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"no end after {seconds} s:\n{self.text}")
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8", errors="replace")


def start(function: Callable[..., Any], *arguments: Any, output: Path, env: Mapping[str, str] | None = None) -> Forked:
    """Calls a module's `function` in a new process, both of whose streams go to the file `output`."""
    process = CONTEXT.Process(target=_child, args=(function, arguments, str(output), dict(env or {})))
    output.touch()
    process.start()
    return Forked(process, output)


def ranks(function: Callable[..., Any], *arguments: Any, folder: Path, world: int = 2) -> list[Forked]:
    """The ended processes of a group, started as torchrun starts them; each knows its rank from the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    started = [
        start(function, *arguments, output=folder / f"rank-{rank}.log",
              env={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]  # fmt: skip
    for one in started:
        one.wait()
    return started


def command(*arguments: str) -> None:
    """`keeltune arguments`."""
    sys.argv = ["keeltune", *arguments]
    app.main()


def run_script(path: str, *arguments: str) -> None:
    """A script as `python path arguments` runs it."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def _child(function: Callable[..., Any], arguments: tuple, output: str, env: dict[str, str]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    os.environ.update(env)
    torch.set_num_threads(1)
    function(*arguments)
