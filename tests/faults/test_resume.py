"""A run that is killed and goes on ends as if nothing had happened: same rows, same weights, same log, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from keeltune import recipe
from keeltune.cli.demo_data import make_reviews
from keeltune.runs import result, run, run_folder
from keeltune.training import build, run_identity
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import distributed, manifest
from keeltune.utils.errors import StateRefused, Stopped, UserError
from keeltune.utils.progress import Display
from tests.helpers import processes
from tests.helpers.interruption import Killed, copy_at, kill_at, same

QUIET = Display(quiet=True)
ROOT = Path(__file__).parents[2]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    rows = make_reviews("films", 90, seed=1)
    write_rows(folder / "train.jsonl", rows[:40])
    write_rows(folder / "validation.jsonl", rows[40:60])
    write_rows(folder / "pool.jsonl", [{"text": row["text"]} for row in rows[60:]])


@pytest.fixture
def spec(tiny, tmp_path):
    """A recipe with dropout, a reference, a pool and accumulation: all that could go out of step."""
    write_data(tmp_path)
    return spec_of(tiny)


def spec_of(tiny) -> dict:
    return {
        "task": "sentiment-analysis",
        "method": "distillation",
        "model": str(tiny("bert")),
        "reference": str(tiny("bert", seed=5)),
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "unlabeled": "pool.jsonl"},
        "training": {
            "epochs": 2,
            "batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "save_steps": 3,
        },
        "evaluation": {"every": 4},
    }


def train(spec: dict, folder: Path, output: str, **how) -> run_folder.Run:
    return run.train(recipe.from_dict({**spec, "output": output}, folder), display=QUIET, **how)


STEPS = (1, 4, 7, 9)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The whole run of `spec`; beside it, as `at-STEP`, its folder as a kill in the middle of that step leaves it."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        copy_at(patch, {step: (folder / "whole", folder / f"at-{step}") for step in STEPS})
        return train(spec_of(tiny), folder, "whole")


@pytest.fixture
def killed(whole, tmp_path):
    """`killed(step)`: the folder of such a run in `tmp_path`, under the name `out`."""
    return lambda step: shutil.copytree(whole.folder.parent / f"at-{step}", tmp_path / "out")


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_copy_is_what_a_killed_run_leaves(spec, tmp_path, monkeypatch, whole, killed):
    with monkeypatch.context() as patch:
        kill_at(patch, 7)
        with pytest.raises(Killed):
            train(spec, tmp_path, "real")
    left = files_of(tmp_path / "real")
    assert left - files_of(killed(7)) == {"result.json"}  # which an exception, unlike a kill, has the time to write
    assert files_of(tmp_path / "out") - {".lock"} <= left  # which an exception has the time to take away
    again = train(spec, tmp_path, "real", resume=True)
    assert same(whole.folder, again.folder)


@pytest.mark.parametrize("step", [1, 4, *(pytest.param(step, marks=pytest.mark.wide) for step in (7, 9))])
def test_a_killed_run_goes_on_bit_for_bit(spec, tmp_path, whole, killed, step):
    killed(step)
    again = train(spec, tmp_path, "out", resume=True)
    assert same(whole.folder, again.folder)
    assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()
    assert whole.result["objective"] == again.result["objective"]
    assert whole.result["metrics"] == again.result["metrics"]
    assert whole.result["reference"] == again.result["reference"]
    assert whole.result["training"]["examples"] == again.result["training"]["examples"]


@pytest.mark.parametrize(("save_steps", "step"), [(2, 7), (1, 1)])
def test_a_killed_run_whose_evaluations_are_means_goes_on_bit_for_bit(spec, tmp_path, monkeypatch, save_steps, step):
    """Also from a checkpoint before the first evaluation, which has no mean yet."""
    values = {
        **spec,
        "evaluation": {"every": 2},
        "training": {**spec["training"], "epochs": 4, "save_steps": save_steps},
    }
    with monkeypatch.context() as patch:
        copy_at(patch, {step: (tmp_path / "whole", tmp_path / "killed")})
        whole = train(values, tmp_path, "whole")
    again = train(values, tmp_path, "killed", resume=True)
    assert whole.result["overfitting"]["averaged"]
    assert same(whole.folder, again.folder)
    assert (whole.folder / "log.jsonl").read_text() == (again.folder / "log.jsonl").read_text()


def test_a_killed_lora_run_goes_on_bit_for_bit(spec, tmp_path, monkeypatch):
    spec = {**spec, "method": "cross-domain", "reference": None}
    spec["training"] = {**spec["training"], "lora": {"rank": 4, "dropout": 0.1}}
    with monkeypatch.context() as patch:
        copy_at(patch, {7: (tmp_path / "whole", tmp_path / "killed")})
        whole = train(spec, tmp_path, "whole")
    assert whole.result["reference"]["kind"] == "adapter-off"
    assert same(whole.folder, train(spec, tmp_path, "killed", resume=True).folder)


@pytest.mark.parametrize(("every", "patience"), [(2, 1), ("auto", 1), (2, "auto")])
def test_a_run_whose_patience_was_used_up_trains_no_further(spec, tmp_path, monkeypatch, every, patience):
    """Killed while it is scored at the end, after training ended early: it goes on to its end, and no further."""
    values = {**spec, "evaluation": {"every": every, "patience": patience}}
    kept = {name: value for name, value in spec["training"].items() if name != "save_steps"}
    values["training"] = {**kept, "epochs": 12, "learning_rate": 1e-12}  # nothing is ever gained
    original = result.completed

    def leaving(*args, **kwargs):
        shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # as a kill leaves it
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(result, "completed", leaving)
        whole = train(values, tmp_path, "whole")
    assert whole.result["training"]["steps"] < 12 * 5
    again = train(values, tmp_path, "killed", resume=True)
    assert same(whole.folder, again.folder)
    assert again.result["training"]["steps"] == whole.result["training"]["steps"]
    assert again.result["overfitting"]["averaged"] == whole.result["overfitting"]["averaged"] == (patience == "auto")
    assert again.result["objective"] == whole.result["objective"]
    assert (again.folder / "log.jsonl").read_text() == (whole.folder / "log.jsonl").read_text()


def test_the_precision_is_chosen_once(spec, tmp_path, monkeypatch):
    """Timed again on a busy machine, `auto` may come out otherwise."""
    spec["training"] |= {"precision": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr(build, "choose_precision", lambda *asked: "bf16")
        kill_at(patch, 7)
        with pytest.raises(Killed):
            train(spec, tmp_path, "killed")
    monkeypatch.setattr(build, "choose_precision", lambda *asked: "fp32")
    assert train(spec, tmp_path, "killed", resume=True).result["training"]["precision"] == "bf16"


def test_resuming_a_finished_run_does_nothing(spec, tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / "out")
    first = run_folder.finished(tmp_path / "out")
    stamp = (first.folder / "result.json").stat().st_mtime_ns
    assert train(spec, tmp_path, "out", resume=True).result == first.result
    assert (first.folder / "result.json").stat().st_mtime_ns == stamp


def test_a_used_folder_is_refused(spec, tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / "out")
    with pytest.raises(UserError, match="--resume"):
        train(spec, tmp_path, "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no run wrote"):
        train(spec, tmp_path, "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_another_recipe_or_other_data_is_refused(spec, tmp_path, killed):
    killed(7)
    changed = {**spec, "training": {**spec["training"], "learning_rate": 2e-3}}
    with pytest.raises(StateRefused, match="learning_rate") as refused:
        train(changed, tmp_path, "out", resume=True)
    assert refused.value.exit_status == 3
    write_rows(tmp_path / "train.jsonl", make_reviews("films", 40, seed=9))
    with pytest.raises(StateRefused, match=r"data\.train"):
        train(spec, tmp_path, "out", resume=True)


def test_a_field_that_a_later_version_added_is_no_change(spec, tmp_path, whole, killed):
    killed(7)
    place = tmp_path / "out" / "checkpoints"
    for file in (place / run_identity.RUN, *place.glob("checkpoint-*/manifest.json")):
        stored = json.loads(file.read_text())
        held = stored.get("run", stored)["identity"]["recipe"]
        del held["data"]["share"], held["evaluation"]["terms"], stored["digest"]
        file.write_bytes(manifest.sealed(stored))
    with pytest.raises(StateRefused, match=r"data\.share"):
        train({**spec, "data": {**spec["data"], "share": 0.5}}, tmp_path, "out", resume=True)
    assert same(whole.folder, train(spec, tmp_path, "out", resume=True).folder)


def test_a_broken_newest_checkpoint_is_skipped(spec, tmp_path, whole, killed):
    killed(7)
    newest = max((tmp_path / "out" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (newest / "trainer_state.json").unlink()
    assert same(whole.folder, train(spec, tmp_path, "out", resume=True).folder)


def test_a_stop_is_asked_for_once_and_loses_nothing(spec, tmp_path, monkeypatch, whole):
    original = KeelTrainer.compute_loss

    def interrupting(self, *args, **kwargs):
        if self.state.global_step == 4 and not self.training_totals.stop_asked:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(KeelTrainer, "compute_loss", interrupting)
        with pytest.raises(Stopped, match="resume=True"):
            os_signals = signal.getsignal(signal.SIGTERM)
            train(spec, tmp_path, "out")
    assert signal.getsignal(signal.SIGTERM) is os_signals
    assert json.loads((tmp_path / "out" / "result.json").read_text())["status"] == "stopped"
    again = train(spec, tmp_path, "out", resume=True)
    assert same(whole.folder, again.folder)
    assert again.result["status"] == "completed"


def train_as_rank(spec: dict, folder: Path, output: str, die: int) -> None:
    """A process of a group: trains, notes the rows that it meets, and dies where it is told to."""
    original = KeelTrainer.get_batch_samples

    def noting(self, *args):
        batches, counts = original(self, *args)
        with open(Path(folder) / f"{output}-{self.args.process_index}.keys", "a") as stream:
            stream.write(json.dumps([self.state.global_step, [b["keys"] for b in batches]]) + "\n")
        if self.state.global_step == die:
            os._exit(9)
        return batches, counts

    KeelTrainer.get_batch_samples = noting
    run.train(recipe.from_dict({**spec, "output": output}, folder), resume=(Path(folder) / output).is_dir())
    distributed.leave_group()
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    assert "pt_gloo_runloop" not in threads, threads  # one that outlives Python ends a finished run with -6


LAUNCH = """
import json, sys
from pathlib import Path
from tests.faults.test_resume import train_as_rank
train_as_rank(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
"""


@pytest.mark.slow  # three groups of two processes
@pytest.mark.parametrize("distributed", [None, {"fsdp": {}}], ids=["whole weights", "weights in shards"])
def test_two_ranks_meet_the_same_rows_after_a_mid_epoch_resume(spec, tmp_path, distributed):
    spec["training"] |= {"epochs": 1, "gradient_accumulation_steps": 1}  # five steps of both
    spec["training"] |= {"distributed": distributed}
    if distributed is not None:
        spec["reference"] = {"model": spec["reference"], "from": "online"}

    def launch(output: str, die: int) -> int:
        done = processes.ranks(train_as_rank, spec, tmp_path, output, die, folder=tmp_path)
        status = max(abs(one.process.exitcode) for one in done)
        assert die >= 0 or status == 0, "\n".join(one.text[-3000:] for one in done)
        return status

    launch("whole", -1)
    assert launch("killed", 4) != 0
    launch("killed", -1)
    for rank in (0, 1):
        whole = dict(json.loads(line) for line in (tmp_path / f"whole-{rank}.keys").read_text().splitlines())
        killed = dict(json.loads(line) for line in (tmp_path / f"killed-{rank}.keys").read_text().splitlines())
        assert whole == killed
    assert same(tmp_path / "whole", tmp_path / "killed")
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "killed")]  # fmt: skip
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other)
    (tmp_path / "killed" / "result.json").unlink()
    launch("killed", -1)  # killed at its very end: nothing is left to train
    one, other = (run_folder.finished(tmp_path / name).result["objective"] for name in ("whole", "killed"))
    assert one["cross_entropy"] == pytest.approx(other["cross_entropy"])


@pytest.mark.slow  # torchrun and two processes that import torch
def test_two_processes_train_one_model(spec, tmp_path):
    """As users start them: each alone on half of the rows, with the counts of all, would end elsewhere."""
    plain = tmp_path / "plain"
    shutil.copytree(spec["model"], plain)
    config = json.loads((plain / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # masks differ with the batch
    (plain / "config.json").write_text(json.dumps(config))
    size = spec["training"]["batch_size"]
    spec |= {"model": str(plain), "training": {**spec["training"], "gradient_accumulation_steps": 1}}
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), json.dumps(spec), str(tmp_path), "two", "-1"],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone = train({**spec, "training": {**spec["training"], "batch_size": 2 * size}}, tmp_path, "one")
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone.folder, tmp_path / "two"))
    start = load_file(plain / "model.safetensors")
    moved = sum(float((one[name] - start[name]).norm() ** 2) for name in start)
    apart = sum(float((one[name] - two[name]).norm() ** 2) for name in start)
    assert (apart / moved) ** 0.5 < 0.01  # as far as Adam lets rounding grow


@pytest.mark.slow  # a real command that is really interrupted
def test_the_command_exits_with_75_and_goes_on(spec, tmp_path):
    spec["training"] |= {"epochs": 40, "logging_steps": 1}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**spec, "output": "out"}))
    command = [sys.executable, "-m", "keeltune", "train", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    log, started = tmp_path / "out" / "log.jsonl", time.monotonic()
    while not (log.is_file() and len(log.read_text().splitlines()) > 3) and time.monotonic() < started + 60:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 75, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
