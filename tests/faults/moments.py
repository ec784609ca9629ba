"""The moments of a run at which something is done to it, by the names of what begins then."""

from __future__ import annotations

import builtins
import ctypes
import os
import signal
import threading
import time
from collections import Counter
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.faults import shim

MOMENTS = {
    "read": "keeltune.training.preparation.prepare:prepare",
    "item": "keeltune.training.batch_plan:Plan.__getitem__",
    "build": "keeltune.training.build:build",
    "before": "keeltune.runs.start:measure",
    "train": "keeltune.training.trainer:KeelTrainer.train",
    "step": "keeltune.training.trainer:KeelTrainer.get_batch_samples",
    "micro-step": "keeltune.training.trainer:KeelTrainer.compute_loss",
    "evaluation": "keeltune.training.trainer:KeelTrainer.evaluate",
    "best": "keeltune.training.checkpoints:BestWeights.save",
    "save": "keeltune.training.trainer:KeelTrainer._save_checkpoint",
    "conclude": "keeltune.runs.conclusion:conclude",
    "score": "keeltune.evaluation.split_scores:score",
    "model": "keeltune.models.saving:save",
    "analysis": "keeltune.evaluation.audit_report:audit_report",
    "card": "keeltune.reports.model_card:model_card",
    "page": "keeltune.reports.run_page:page",
}
"""name: the function that begins then, which is looked up in its module or class each time that it is called."""


class Plan:
    """What is done to this process, and when.

    Args (of the mapping): `at`: [moment, k], the k-th time (from 1) that it comes; without it, at once.
        `do`: "SIGKILL", "SIGTERM" … to this process; "exit STATUS"; "hang"; "raise ERROR"; "poison gradients", of the
        trainer that the moment is about; {"shim": [folder, action, at, sticky, record]}; {"append": [file, text]}.
        `until`: a moment as `at`, from which on the shim does nothing. `then`: [[seconds, signal], …] after it.
        `reached`: a file that is written when it is done. `events`: a file for a line each moment. `clock`: seconds by
        which the clock is wrong. `versions`: {library: version}, as told. `user`: whose it is from here on;
        `read_only`: a folder in whose place this process has an empty disk that cannot be written; both as root.
    """

    def __init__(self, values: dict[str, Any]):
        self.values, self.counts = values, Counter()

    def install(self) -> None:
        """Watches the moments, or does it at once."""
        if "clock" in self.values:
            shim.shift_clock(self.values["clock"])
        for library, version in self.values.get("versions", {}).items():
            import_module(library).__version__ = version
        if folder := self.values.get("read_only"):
            _mount_read_only(folder)
        if user := self.values.get("user"):
            os.setuid(user)
        if "at" in self.values or "events" in self.values:
            for name, place in MOMENTS.items():
                self._watch(name, place)
        elif "do" in self.values:
            self.act()

    def _watch(self, name: str, place: str) -> None:
        module, _, path = place.partition(":")
        owner: Any = import_module(module)
        *classes, function = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        original = getattr(owner, function)

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.happen(name, args)
            return original(*args, **kwargs)

        setattr(owner, function, watched)

    def happen(self, name: str, args: tuple[Any, ...]) -> None:
        self.counts[name] += 1
        if events := self.values.get("events"):
            with open(events, "a") as file:
                file.write(f"{name} {self.counts[name]}\n")
        if self.values.get("until") == [name, self.counts[name]]:
            shim.disarm()
        if self.values.get("at") == [name, self.counts[name]]:
            self.act(*args)

    def act(self, subject: Any = None, *_: Any) -> None:
        what = self.values["do"]
        if reached := self.values.get("reached"):
            Path(reached).write_text(str(os.getpid()))
        if then := self.values.get("then"):
            threading.Thread(target=_later, args=(then,), daemon=True).start()
        if isinstance(what, dict) and "append" in what:
            file, text = what["append"]
            with open(file, "a") as stream:
                stream.write(text)
        elif isinstance(what, dict):
            folder, action, at, sticky, record = what["shim"]
            Path(folder).mkdir(parents=True, exist_ok=True)
            shim.arm(Path(folder), action, at, sticky=sticky, record=Path(record) if record else None)
        elif what == "hang":
            time.sleep(10_000)
        elif what == "poison gradients":
            weight = next(weight for weight in subject.model.parameters() if weight.requires_grad)
            weight.grad = weight.detach().clone().fill_(float("nan"))
        elif what.startswith("exit "):
            os._exit(int(what.removeprefix("exit ")))
        elif what.startswith("raise "):
            raise getattr(builtins, what.removeprefix("raise "))("a fault that was put here")
        else:
            os.kill(os.getpid(), getattr(signal, what))


def _later(signals: list[tuple[float, str]]) -> None:
    for seconds, name in signals:
        time.sleep(seconds)
        os.kill(os.getpid(), getattr(signal, name))


def _mount_read_only(folder: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    own_mounts, private, read_only = 0x20000, 0x44000, 0x1
    if (
        library.unshare(own_mounts)
        or library.mount(None, b"/", None, ctypes.c_ulong(private), None)
        or library.mount(b"none", os.path.abspath(folder).encode(), b"tmpfs", ctypes.c_ulong(read_only), None)
    ):
        raise OSError(ctypes.get_errno(), "cannot mount", folder)
