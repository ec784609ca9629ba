"""Runs of the command in processes of their own that need not import torch anew, with a plan of what happens to each.

    with Server(library) as server:
        ended = server.run(folder, ["train", "recipe.yaml"], plans=[{"at": ["micro-step", 3], "do": "SIGKILL"}])
        ended.status, ended.text, ended.left

A process of its own has the shim loaded before libc and everything imported; each run is a fork of it (one for each
rank) that leads a session, by which what it leaves behind is found.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = ".modules.json"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip
"""In which every run runs."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: each rank's exit status (minus a signal's number), what they said, the processes that they left
    and how long it took; `status` is the first rank's."""

    statuses: list[int]
    text: str
    left: list[str]
    seconds: float

    @property
    def status(self) -> int:
        return self.statuses[0]

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1]


def wait_for(file: Path, seconds: float = 60) -> None:
    """Until a file is there and not empty. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not (file.is_file() and file.stat().st_size):
        if time.monotonic() > end:
            raise TimeoutError(f"no {file} after {seconds} s")
        time.sleep(0.01)


class ServerEndedError(BaseException):
    """Somebody ended the server: no trial can say anything any more."""


class Server:
    """`library`: what `shim.build` made."""

    def __init__(self, library: Path, errors: Path | None = None):
        self.errors = None if errors is None else errors.open("a")
        environment = {**os.environ, **ENVIRONMENT, "LD_PRELOAD": str(library)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        if self.errors is not None:
            self.errors.close()

    def run(
        self,
        folder: Path,
        arguments: Sequence[str],
        plans: Sequence[dict[str, Any]] = ({},),
        limit: float = 120,
    ) -> Ended:
        """`keeltune arguments` in `folder`, a process for each plan: ranks of one group where there are several.

        `limit`: seconds, after which it is killed.
        """
        asked = {"folder": str(folder), "arguments": list(arguments), "plans": list(plans), "limit": limit}
        return Ended(**self._ask(asked))

    @contextmanager
    def running(self, folder: Path, arguments: Sequence[str], plan: dict[str, Any], until: Path) -> Iterator[int]:
        """A run that goes on beside others, from the moment that it has made the file `until`: its process id.

        At the end it is killed, if it lives.
        """
        child = int(self._ask({"start": [str(folder), list(arguments), plan]})["process"])
        try:
            wait_for(until)
            yield child
        finally:
            self._ask({"kill": child})

    def call(self, function: str, *values: Any) -> Any:
        """What a module's function returns, in a fork: `package.module:name`; values and answer are JSON."""
        return self._ask({"call": function, "values": list(values)})["answer"]

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        line = ""
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise ServerEndedError(f"the server of faults ended with {self.process.wait()}")
        return dict(json.loads(line))


# ----------------------------------------------------------------------------------------------- within the server


def _serve() -> None:
    import torch

    from keeltune.cli import app, train  # noqa: F401
    from keeltune.reports import localization, templating
    from keeltune.training import trainer  # noqa: F401
    from tests.faults import moments, outcome, workloads  # noqa: F401
    from tests.helpers import models  # noqa: F401

    torch.set_num_threads(1)
    pages = templating.environment(localization.translator("en"))
    pages.get_template("report.html")  # compiled once, not in each fork
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        gc.freeze()  # the million objects that imports leave are not looked at in each fork
        answer = next(does(asked) for name, does in DOES.items() if name in asked)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _called(asked: dict[str, Any]) -> dict[str, Any]:
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            module, _, name = asked["call"].partition(":")
            answer = {"answer": getattr(import_module(module), name)(*asked["values"])}
        except BaseException:
            answer = {"answer": {"error": traceback.format_exc()}}
        with os.fdopen(to_parent, "w") as stream:
            json.dump(answer, stream)
        os._exit(0)
    os.close(to_parent)
    with os.fdopen(from_child) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return dict(json.loads(text))


def _started(asked: dict[str, Any]) -> dict[str, Any]:
    folder, arguments, plan = asked["start"]
    there = {"folder": folder, "arguments": arguments}
    return {"process": _start(there, plan, {}, Path(folder) / f"said-{time.monotonic_ns()}.txt")}


def _killed(asked: dict[str, Any]) -> dict[str, Any]:
    with suppress(ProcessLookupError):
        os.kill(asked["kill"], signal.SIGKILL)
    os.waitpid(asked["kill"], 0)
    return {"left": _session(asked["kill"])}


def _ran(asked: dict[str, Any]) -> dict[str, Any]:
    folder, plans = Path(asked["folder"]), asked["plans"]
    output = folder / "said.txt"
    output.write_bytes(b"")
    group = _group(len(plans))
    begun = time.monotonic()
    children = [_start(asked, plan, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {}, output)
                for rank, plan in enumerate(plans)]  # fmt: skip
    statuses: dict[int, int] = {}
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() - begun > asked["limit"]:
            for child in set(children) - set(statuses):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    left = []
    for child in children:
        left += _session(child)
    _import_too(folder / MODULES)
    return {
        "statuses": [statuses[child] for child in children],
        "text": output.read_text(encoding="utf-8", errors="replace"),
        "left": left,
        "seconds": seconds,
    }


def _import_too(file: Path) -> None:
    """What a run imported when it was needed, for the next ones."""
    with suppress(OSError, ValueError):
        for name in set(json.loads(file.read_text())) - set(sys.modules):
            with suppress(Exception):
                import_module(name)


def _group(world: int) -> dict[str, str]:
    if world == 1:
        return {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(world)
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}


def _start(asked: dict[str, Any], plan: dict[str, Any], environment: dict[str, str], output: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", closefd=False) for n in (0, 1, 2))
        os.environ.update(environment)
        os.chdir(asked["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _command(asked["arguments"], plan)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(arguments: list[str], plan: dict[str, Any]) -> int:
    """The command as Python runs it, with what is done when it ends: `atexit`."""
    from keeltune.cli import app
    from tests.faults.moments import Plan

    sys.argv = ["keeltune", *arguments]
    Plan(plan).install()
    try:
        app.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        with suppress(OSError):
            Path(MODULES).write_text(json.dumps(sorted(sys.modules)))
        atexit._run_exitfuncs()
    return 0


def _session(leader: int) -> list[str]:
    """What is left of the processes that a run started, by its session; they are ended."""
    left = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                left.append((place / "cmdline").read_text().replace("\0", " ")[:200])
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue
    return left


DOES = {"call": _called, "start": _started, "kill": _killed, "folder": _ran}
"""What is done, by the first of these names that a request has."""

if __name__ == "__main__":
    _serve()
