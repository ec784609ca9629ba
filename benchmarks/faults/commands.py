"""Kills of real commands, each a Python of its own with another order of its sets; two ranks by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.bench import Bench, Trial
from tests.faults.server import ENVIRONMENT, ROOT
from tests.faults.workloads import ALL

CHOSEN = {"few steps": (2, 5), "summaries, decoder, LoRA": (4,), "sentiment, two ranks": (3,)}
"""Workloads, and after how many lines of `log.jsonl` they are killed."""


def trials(bench: Bench) -> Iterator[Trial]:
    for name, moments in CHOSEN.items():
        for lines in moments:
            yield Trial("commands of their own", f"{name}, after {lines} lines", partial(_killed, name, lines))


def _killed(name: str, lines: int, bench: Bench) -> str:
    """One process is killed (of several the last one: the launcher ends the others), and the command goes on."""
    with bench.fresh(name) as folder:
        with (folder / "said.txt").open("w") as said:
            running = _start(folder, name, said)
            log, end = folder / "out" / "log.jsonl", time.monotonic() + 120
            while not (log.is_file() and len(log.read_text().splitlines()) >= lines) and time.monotonic() < end:
                time.sleep(0.005)
            os.kill(_last_child(running.pid) if ALL[name].ranks > 1 else running.pid, signal.SIGKILL)
            if running.wait(60) == 0:
                return "it was done before it was killed"
            if wrong := bench.unsound(folder):
                return wrong
            again = _start(folder, name, said, "--resume").wait(120)
        text = (folder / "said.txt").read_text(errors="replace")
        return f"exit {again}: {text[-300:]}" if again else bench.same_end(folder, name)


def _start(folder: Path, name: str, said: object, *options: str) -> subprocess.Popen[bytes]:
    ranks = ALL[name].ranks
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    environment = {**os.environ, **ENVIRONMENT, "PYTHONHASHSEED": "random"}
    environment["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT / "src")])
    command = [sys.executable, *launcher, "-m", "keeltune", "train", "recipe.yaml", *options]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)  # type: ignore[arg-type]


def _last_child(process: int) -> int:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[-1])
