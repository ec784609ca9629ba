"""Nothing leans on what macOS lacks: without /proc and the calls of Linux alone all is imported, and a run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keeltune.utils import device
from tests.helpers import runs

ROOT = Path(__file__).parents[2]

SCRIPT = """
import fcntl, json, os, pkgutil, select, signal, sys
from importlib import import_module
import accelerate, datasets, peft, sklearn.metrics, torch, transformers  # they may be made for the system they are on

LINUX = {
    os: ("sched_getaffinity", "sched_setaffinity", "fdatasync", "posix_fallocate", "posix_fadvise", "memfd_create",
         "pidfd_open", "copy_file_range", "splice", "getrandom", "eventfd", "getxattr", "setxattr", "listxattr",
         "O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME", "pipe2", "waitid", "unshare", "setns"),
    signal: ("SIGPWR", "SIGSTKFLT", "SIGPOLL", "SIGRTMIN", "SIGRTMAX", "sigtimedwait", "sigwaitinfo"),
    fcntl: ("F_OFD_SETLK", "F_OFD_SETLKW", "F_OFD_GETLK", "F_SETPIPE_SZ", "F_ADD_SEALS"),
    select: ("epoll",),
}
for module, names in LINUX.items():
    for name in names:
        vars(module).pop(name, None)
linked = os.readlink


def refuse(path):
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", os.fspath(path))


def hook(event, args):
    if event == "open":
        refuse(args[0])


def readlink(path, **options):
    refuse(path)
    return linked(path, **options)


sys.addaudithook(hook)
os.readlink, sys.platform = readlink, "darwin"

import keeltune as kt

for found in pkgutil.walk_packages(kt.__path__, "keeltune."):
    if not found.name.startswith(("keeltune.__main__", "keeltune.models.chat_renderer", "keeltune.keras")):
        import_module(found.name)

from keeltune.cli import doctor
from keeltune.runs.environment import peak_memory

assert peak_memory() > 0
run = kt.train(json.loads(sys.argv[1]))
assert kt.load(run.folder)("the film is good")["prediction"] in ("negative", "positive")
doctor.doctor()
"""


@pytest.mark.slow  # a process that imports all of it anew
def test_all_is_imported_and_a_run_ends_without_what_linux_alone_has(tiny, tmp_path):
    runs.make_data(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "COLUMNS": "80"}
    call = [sys.executable, "-c", SCRIPT, json.dumps(runs.spec_of("fine-tuning", tiny("bert")))]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "GFLOP/s" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_gpu_of_a_mac_is_left_alone_and_that_is_said(monkeypatch, tmp_path):
    from keeltune.recipe.training_fields import Training
    from keeltune.training.arguments import training_arguments

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.device_note() == ""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "mps" in device.device_note()
    assert device.this_device() == "cpu"
    made = training_arguments(tmp_path, Training(), batch_size=1, every=None, seed=0)
    assert made.use_cpu and made.device.type == "cpu"
