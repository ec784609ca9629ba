"""Workers that Ray starts: how many and with what, which fault is handed back and which one starts them anew, and that
a run with a killed worker ends as one that was left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from keeltune.models import libraries
from keeltune.runs import on_ray, run, run_folder
from keeltune.utils.errors import Diverged, Stopped, UserError
from tests.helpers.command import keeltune
from tests.helpers.models import save_tiny
from tests.helpers.runs import make_data, spec_of


def cluster(*machines: dict[str, float]) -> Any:
    """What is read of Ray: its machines, the last of which is lost."""
    nodes = [{"Alive": True, "Resources": resources} for resources in machines]
    return SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([{"CPU": 2.0}], 2, {"num_workers": 2, "resources_per_worker": {"CPU": 1}}),
        ([{"CPU": 8.0}], 2, {"num_workers": 2, "resources_per_worker": {"CPU": 4}}),
        ([{"CPU": 8.0}, {"CPU": 8.0}], None, {"num_workers": 2, "resources_per_worker": {"CPU": 8}}),
        ([{"CPU": 5.0}, {"CPU": 1.0}], 2, {"num_workers": 2, "resources_per_worker": {"CPU": 2}}),  # both on the first
        ([{"CPU": 4.0}, {"CPU": 2.0}], 3, {"num_workers": 3, "resources_per_worker": {"CPU": 2}}),
        ([{"CPU": 16.0}, {"CPU": 16.0, "GPU": 4.0}], None, {"num_workers": 4, "use_gpu": True}),
        ([{"CPU": 16.0, "GPU": 4.0}], 2, {"num_workers": 2, "use_gpu": True}),
    ],
)
def test_each_worker_has_the_largest_share_with_which_all_find_a_place(machines, workers, expected):
    assert on_ray._scaling(cluster(*machines), workers) == expected


@pytest.mark.parametrize(
    ("machines", "workers", "there"),
    [([{"CPU": 2.0}], 3, "2 processors"), ([{"CPU": 16.0, "GPU": 4.0}], 5, "4 GPUs"), ([{"CPU": 0.0}], 1, "0 proc")],
)
def test_more_workers_than_the_cluster_has_places_are_refused(machines, workers, there):
    with pytest.raises(UserError, match=f"{workers}, while the cluster has {there}"):
        on_ray._scaling(cluster(*machines), workers)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "slurm"], "--on"),
        (["--on", "ray"], r"pip install 'keeltune\[ray\]'"),
        (["--workers", "2"], "without --on"),
    ],
)
def test_what_no_engine_serves_is_refused_before_the_recipe_is_read(arguments, said, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(libraries, "installed", lambda module: False)
    assert keeltune(monkeypatch, "train", tmp_path / "none.yaml", *arguments) == 2
    printed = capfd.readouterr().err
    assert all(part in printed for part in ("found:", "expected:", "fix:")) and "none.yaml" not in printed
    assert re.search(said, printed)


class Handle:
    """An actor of Ray's as its callers see it."""

    def __init__(self, actor: Any):
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Calls a worker, in which the training ends as `error` says; what all workers and the call know afterwards."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda value: value))
    ending, started = on_ray.Ending(), []
    monkeypatch.setattr(
        on_ray, "load", lambda path, overrides: SimpleNamespace(path=Path, output=str(tmp_path / "run"))
    )

    def work(error: Exception | None) -> Any:
        def train(recipe: Any, *, resume: bool, allow_change: Any) -> None:
            started.append(resume)
            if error is not None:
                raise error

        monkeypatch.setattr(run, "train", train)
        on_ray._work({"call": on_ray.Call("recipe.yaml", [], []), "ending": Handle(ending)})
        return ending.first(), started

    return work


def test_a_lost_worker_starts_the_group_anew(worker):
    with pytest.raises(Stopped, match="killed"):
        worker(Stopped("process 1 was killed"))
    assert worker(None) == (None, [True, True])  # the second start goes on with what the first one left


def test_a_fault_that_no_new_worker_mends_ends_the_call(worker):
    fault = Diverged("the loss is not finite at step 3")
    fault.add_note("the worker's own last line")
    told, started = worker(fault)
    assert told is fault and told.exit_status == 4 and not told.__notes__ and len(started) == 1
    assert worker(None) == (fault, [True])  # a worker that Ray starts all the same trains no more


def test_of_one_fault_in_all_workers_the_message_is_told_once(worker):
    fault = Diverged("in another process")
    fault.said = True
    assert worker(fault)[0] is None


def test_a_bug_is_not_tried_again(worker, capfd):
    told, _ = worker(ZeroDivisionError("division by zero"))
    assert str(told) == "in a worker: ZeroDivisionError: division by zero"
    assert "Traceback" in capfd.readouterr().err


def _kill_one(checkpoint: Path) -> None:
    """Ends a worker with SIGKILL as soon as there is a checkpoint."""
    until = time.monotonic() + 300
    while not checkpoint.is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)


@pytest.mark.slow("a cluster of Ray is started twice, a worker is killed, the group starts anew")
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray comes with keeltune[ray]")
def test_a_run_with_a_killed_worker_ends_as_one_that_was_left_alone(tmp_path):
    save_tiny(tmp_path / "model")
    make_data(tmp_path)
    spec = spec_of("fine-tuning", tmp_path / "model", training={"epochs": 20, "batch_size": 4, "save_steps": 2})
    finished = []
    for name in ("killed", "whole"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({**spec, "output": name}))
        log = tmp_path / f"{name}.log"
        command = [sys.executable, "-m", "keeltune", "train", f"{name}.yaml", "--on", "ray", "--workers", "2"]
        with log.open("w") as output:
            call = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output,
                                    env={**os.environ, "RAY_raylet_start_wait_time_s": "300"})  # fmt: skip
            if name == "killed":
                _kill_one(tmp_path / name / "checkpoints" / "checkpoint-4")
            assert call.wait(600) == 0, log.read_text()
        finished.append(run_folder.finished(tmp_path / name))
    killed, whole = finished
    assert killed.result["metrics"] == whole.result["metrics"]
    weights = [load_file(one.model / "model.safetensors") for one in finished]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
