"""Kills a cache's capture where it is told to, and lets it go on: run by `test_cache` with `tests/faults/shim`.

    python -m tests.helpers.crash_points RECIPE FOLDER LOG       {"calls": K, "wrong": [[action, k, what], …]}

A kill between two file calls leaves what a kill at the later one leaves: no other moment need be tried.
The parent loads everything once and never captures; a trial is two forks of it: one that is killed, one that goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from keeltune import recipe
from keeltune.training import build
from keeltune.training.cache import capture, finished, identity, shards
from keeltune.training.preparation import prepare
from keeltune.utils import tensor_store
from keeltune.utils.progress import Display
from tests.faults import shim

QUIET = Display(quiet=True)


class Trials:
    def __init__(self, file: str, folder: str, log: str):
        torch.set_num_threads(1)
        shards.SHARD_EXAMPLES = 20
        self.folder, self.log = Path(folder), Path(log)
        self.material = prepare.prepare(recipe.load(file))
        self.base = build.prepared(self.material, QUIET)
        self.want = identity.cache_request(self.material, self.base.precision, self.base.plan.anchored_examples())
        self.reference = self.base.live_reference()
        self.whole = self.finished()

    def capture(self, action: str | None = None, at: int = -1) -> int:
        """Forks a capture; returns the child's process id."""
        child = os.fork()
        if child == 0:
            try:
                if action is not None:
                    self.folder.mkdir(exist_ok=True)  # the shim wants a folder; `Writer` makes one too
                    shim.arm(self.folder, action, at, record=self.log if action == "list" else None)
                capture.capture(self.want, self.material, self.reference, self.base.device, QUIET)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(9)
        return child

    def finished(self) -> str:
        """Lets a capture go on to its end; the digest of what is then there, or what was wrong."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.capture(), 0)[1])
        if status != 0:
            return f"exit status {status}"
        store = finished.find_finished(self.want)
        assert store is not None
        left = [p.name for p in self.folder.iterdir() if p.name.startswith(".staging")]
        return f"left {left}" if left else str(store.manifest["digest"])

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def calls(self) -> dict:
        """One trial for each file call of a whole capture, killed there, and one for each write, torn in its middle."""
        self.clear()
        os.waitpid(self.capture("list"), 0)
        lines = [line.split() for line in self.log.read_text().splitlines()]
        writes = [("torn", int(number)) for number, operation, _ in lines if operation == "write"]
        wrong = []
        for action, at in [*(("kill", int(number)) for number, *_ in lines), *writes]:
            self.clear()
            status = os.waitstatus_to_exitcode(os.waitpid(self.capture(action, at), 0)[1])
            found = self.finished()
            if found != self.whole or status != -signal.SIGKILL:
                wrong.append([action, at, status, found])
        return {"calls": len(lines), "writes": len(writes), "wrong": wrong}


if __name__ == "__main__":
    trials = Trials(*sys.argv[1:])
    assert (trials.folder / tensor_store.MANIFEST).is_file()
    print(json.dumps(trials.calls()))
