"""A run whose processes Ray starts: on one machine or on a cluster, and again where one of them is lost.

    the call's machine   claims the folder, clears it with `--overwrite`, asks Ray for the workers, waits
    each worker          trains as a process of torchrun does (`run.train`), from the newest checkpoint there is

Recipe, data and output lie where every machine sees them under the same path. What is asked of Ray is its TorchTrainer:
where the workers run, the group's address, and new workers for lost ones
(https://docs.ray.io/en/latest/train/user-guides/fault-tolerance.html). Checkpoints are ours, verified, in the run's
folder. A lost worker ends all of its group within seconds (`rank_watch.py`), as elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune.recipe import load
from keeltune.recipe.fields import Recipe
from keeltune.runs import claim, run, run_folder
from keeltune.runs.last_line import last_line_of
from keeltune.runs.run_folder import Run
from keeltune.utils import stop_signals
from keeltune.utils.distributed import is_main_process
from keeltune.utils.errors import KeeltuneError, Problem, Stopped, UserError, brief
from keeltune.utils.process_group import FOREVER
from keeltune.utils.progress import Display
from keeltune.utils.system_faults import system_faults

RESTARTS = 10
"""How often lost workers are replaced; machines that a cluster takes back with notice are not counted by Ray."""

LEFT_WITHIN = 60.0
"""Seconds in which a lost group's first process lets go of the folder that the next one's takes."""


@dataclass(frozen=True)
class Call:
    """What a worker needs to know of the call: it reads the recipe anew, from the same place."""

    recipe: str
    overrides: Sequence[str]
    allow_change: Sequence[str]


def train(
    recipe: Recipe, call: Call, workers: int | None = None, *, resume: bool = False, overwrite: bool = False
) -> Run:
    """`run.train` by the workers of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one that is
    started for this call.

    Args:
        recipe: what `call` reads. workers: processes that train together; None: one a GPU of the cluster, without GPUs
            one a machine.
    Raises: as `run.train` does, whatever worker it was raised in; UserError too where the cluster is smaller than
        `workers`; Stopped where workers were lost RESTARTS times.
    """
    folder, display = recipe.path(recipe.output), Display()
    first = "--on ray --overwrite" if overwrite else "--on ray"
    with stop_signals.listened(), last_line_of(recipe, first) as ended:
        with system_faults(folder), claim.claimed(folder, resume=resume, overwrite=overwrite, display=display):
            pass  # cleared, or refused, once: the workers go on with what is there
        ended.option = "--on ray --resume"
        _trained(call, folder, workers, display)
        if (finished := run_folder.finished(folder)) is None:
            raise Stopped(f"the workers ended, and {folder} on this machine holds no finished run: is it shared?")
    return finished


def _trained(call: Call, folder: Path, workers: int | None, display: Display) -> None:
    """Waits until the workers have trained; raises what ended them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # a warning of each second where there is no dashboard to be asked
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Failed to query Ray Train Controller|State API may be temp")
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchConfig, TorchTrainer

    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, logging_level="WARNING", runtime_env={"env_vars": _environment()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    storage = Path(tempfile.mkdtemp(prefix=".ray-", dir=folder.parent))  # of Ray's own notes; all machines write there
    try:
        scaling = _scaling(ray, workers)
        display.say(f"Ray {ray.__version__} starts {scaling['num_workers']} workers")
        ending = ray.remote(num_cpus=0)(Ending).remote()
        restarts = RESTARTS
        while True:
            trainer = TorchTrainer(
                _work,
                train_loop_config={"call": call, "ending": ending},
                scaling_config=ray_train.ScalingConfig(**scaling),
                torch_config=TorchConfig(timeout_s=int(FOREVER.total_seconds())),
                run_config=ray_train.RunConfig(
                    name=folder.name,
                    storage_path=str(storage),
                    failure_config=ray_train.FailureConfig(max_failures=restarts),
                ),
            )
            try:
                trainer.fit()
                break
            except ray_train.ControllerError as error:  # a worker was lost before all of them stood
                if not restarts:
                    raise Stopped(f"workers were lost {RESTARTS} times: {_line(error)}") from error
                restarts -= 1
            except ray_train.WorkerGroupError as error:
                raise Stopped(f"workers were lost {RESTARTS} times: {_line(error)}") from error
        if (told := ray.get(ending.first.remote())) is not None:
            raise told
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        if mine:
            ray.shutdown()


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return brief(lines[-1] if lines else type(error).__name__, 300)


def _environment() -> dict[str, str]:
    """What of this process's environment the workers have too, whatever the machine."""
    ours = ("HF_", "KEELTUNE_", "TRANSFORMERS_", "PYTHONPATH", "TOKENIZERS_PARALLELISM")
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}


def _scaling(ray: Any, workers: int | None) -> dict[str, Any]:
    """Ray's words for how many workers there are, and what each has: a GPU where there are some, else a share of the
    processors, the largest with which all find a place. UserError where they do not."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    count = workers or gpus or len(nodes)
    if gpus:
        _refuse_more(count, gpus, "GPUs")
        return {"num_workers": count, "use_gpu": True}
    cores = [int(node.get("CPU", 0)) for node in nodes]
    share = next((size for size in range(max(cores), 0, -1) if sum(n // size for n in cores) >= count), 0)
    if not share:
        _refuse_more(count, sum(cores), "processors")
    return {"num_workers": count, "resources_per_worker": {"CPU": share}}


def _refuse_more(workers: int, there: int, what: str) -> None:
    if workers > there:
        found, expected = f"{workers}, while the cluster has {there} {what}", f"at most {there}"
        raise UserError(Problem("the call", "--workers", found, expected, "ask for fewer, or add machines"))


class Ending:
    """An error that ended the workers and that no new worker mends, where all of them and the call see it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def tell(self, error: BaseException) -> None:
        self.error = self.error or error

    def first(self) -> BaseException | None:
        return self.error


def _work(config: Mapping[str, Any]) -> None:
    """A worker: trains as a process of the group that Ray has made. Raises only what another start may mend."""
    import ray

    call, ending = config["call"], config["ending"]
    if ray.get(ending.first.remote()) is not None:
        return
    try:
        recipe = load(call.recipe, call.overrides)
        if is_main_process():
            _wait_for_the_lost(recipe.path(recipe.output))
        run.train(recipe, resume=True, allow_change=call.allow_change)
    except Stopped:  # another worker is lost, or this one is asked to go
        raise
    except KeeltuneError as error:
        if not error.said:
            ray.get(ending.tell.remote(_portable(error)))
    except Exception as error:
        traceback.print_exc()
        ray.get(ending.tell.remote(RuntimeError(f"in a worker: {type(error).__name__}: {error}")))


def _portable(error: KeeltuneError) -> KeeltuneError:
    """The error as the call raises it: without what points into this process; the call has its own last line."""
    error.__notes__ = []
    return error.with_traceback(None)


def _wait_for_the_lost(folder: Path) -> None:
    """Waits while a process of the lost group still ends in the folder."""
    until = time.monotonic() + LEFT_WITHIN
    while time.monotonic() < until:
        try:
            return claim.refuse_in_use(folder)
        except UserError:
            time.sleep(1)
