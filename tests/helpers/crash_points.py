"""Kills a cache's capture where it is told to, and lets it go on: run by `test_cache` under faultfs (LD_PRELOAD).

    python -m tests.helpers.crash_points RECIPE FOLDER LOG calls       {"calls": K, "wrong": [[action, k, what], …]}
    python -m tests.helpers.crash_points RECIPE FOLDER LOG moments     the same for 40 kills at random moments

The parent loads everything once and never captures; a trial is two forks of it: one that is killed, one that goes on.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from keeltune import recipe
from keeltune.training import build
from keeltune.training.cache import capture, finished, identity, shards
from keeltune.training.preparation import prepare
from keeltune.utils import tensor_store
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)


class Trials:
    def __init__(self, file: str, folder: str, log: str):
        torch.set_num_threads(1)
        shards.SHARD_EXAMPLES = 8
        self.folder, self.log = Path(folder), Path(log)
        self.material = prepare.prepare(recipe.load(file))
        self.base = build.prepared(self.material, QUIET)
        self.want = identity.cache_request(self.material, self.base.precision, self.base.plan.anchored_examples())
        self.reference = self.base.live_reference()
        self.shim = ctypes.CDLL(None)
        begun = time.perf_counter()
        self.whole = self.finished()
        self.seconds = time.perf_counter() - begun

    def capture(self, action: str | None = None, at: int = -1) -> int:
        """Forks a capture; returns the child's process id."""
        child = os.fork()
        if child == 0:
            try:
                if action is not None:
                    self.shim.faultfs_arm(str(self.folder).encode(), ctypes.c_long(at), action.encode(), 0,
                                          str(self.log).encode() if action == "list" else b"")  # fmt: skip
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
        """One trial for each file call of a whole capture, killed there, or torn in the middle of a write."""
        self.clear()
        os.waitpid(self.capture("list"), 0)
        count = len(self.log.read_text().splitlines())
        wrong = []
        for action in ("kill", "torn"):
            for at in range(1, count + 1):
                self.clear()
                status = os.waitstatus_to_exitcode(os.waitpid(self.capture(action, at), 0)[1])
                found = self.finished()
                if found != self.whole or (action == "kill" and status != -signal.SIGKILL):
                    wrong.append([action, at, status, found])
        return {"calls": count, "wrong": wrong}

    def moments(self) -> dict:
        dice, wrong = random.Random(0), []
        for _ in range(40):
            self.clear()
            child = self.capture()
            time.sleep(dice.uniform(0.0, self.seconds))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if (found := self.finished()) != self.whole:
                wrong.append(found)
        return {"calls": 40, "wrong": wrong}


if __name__ == "__main__":
    *places, what = sys.argv[1:]
    trials = Trials(*places)
    assert (trials.folder / tensor_store.MANIFEST).is_file()
    print(json.dumps(getattr(trials, what)()))
