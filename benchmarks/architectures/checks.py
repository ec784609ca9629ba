"""What is shown of one task on one architecture, all of it through `kt.train` and what it builds."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.architectures import closed_form, folders
from benchmarks.architectures.discovery import Cell
from safetensors.torch import load_file
from tests.helpers.exact import RATE, doubled, error_of_accumulation, still
from tests.helpers.families import FAMILIES

import keeltune as kt
from keeltune import recipe
from keeltune.evaluation import prediction
from keeltune.models import surgery
from keeltune.objective.references.model import Model
from keeltune.training import build
from keeltune.training.job import Job
from keeltune.training.step_loss import StepLoss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.errors import KeeltuneError, UserError
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)
STEPS, LIMIT = 4, 60


@dataclass
class Outcome:
    """What came of a cell: `passed`, `refused` (by keeltune, with its reason), `not made` (by this benchmark) or
    `failed`. Errors are relative, but that of D, which may be small: it is of CE + weight · D."""

    task: str
    architecture: str
    outcome: str = "failed"
    reason: str = ""
    weights: int = 0
    cross_entropy: float | None = None
    divergence: float | None = None
    gradient: float | None = None
    accumulation: float | None = None
    saved: bool | None = None
    resumed: bool | None = None
    dtype: str = "float64"
    seconds: float = 0.0

    def judge(self) -> None:
        cut = 1e-6 if self.dtype == "float64" else 2e-5  # of float32, over four steps
        figures = {
            "cross-entropy": (self.cross_entropy, 1e-6), "divergence": (self.divergence, 1e-6),
            "gradient": (self.gradient, 1e-5), "4 = 2 × 2": (self.accumulation, cut),
        }  # fmt: skip
        wrong = [f"{name} {value if value is None else f'{value:.1e}'}" for name, (value, most) in figures.items()
                 if value is None or not value < most]  # fmt: skip
        wrong += [name for name in ("saved", "resumed") if not getattr(self, name)]
        self.outcome, self.reason = ("failed", ", ".join(wrong)) if wrong else ("passed", "")


class TooSlow(Exception):
    pass


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Seconds of the processor: a busy machine makes no cell fail."""

    def late(*_: Any) -> None:
        raise TooSlow(f"more than {seconds} s")

    previous = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def run(cell: Cell) -> Outcome:
    """Every check of one cell, in a folder of its own that is deleted again."""
    outcome, started = Outcome(cell.task, cell.architecture), time.process_time()
    folder = Path(tempfile.mkdtemp(prefix="architecture-"))
    try:
        with within(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folders.make(cell, folder)
            look(cell, folder, outcome)
    except folders.NotMade as error:
        outcome.outcome, outcome.reason = "not made", str(error)
    except UserError as error:
        problem = error.problems[0]
        outcome.outcome, outcome.reason = "refused", f"{problem.found}; expected {problem.expected}"
    except KeeltuneError as error:
        outcome.reason = str(error)
    except Exception as error:
        outcome.reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
        if DEBUG:
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()
    outcome.seconds = round(time.process_time() - started, 2)
    return outcome


DEBUG = False


def spec(cell: Cell) -> dict[str, Any]:
    return {
        "task": cell.task,
        "method": "distillation",
        "model": "student",
        "reference": "teacher",
        "objective": {"weight": 0.3},
        "data": {"train": "rows.jsonl", "test": "rows.jsonl"},
        "training": {
            "max_steps": STEPS, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
            "precision": "fp32", "save_steps": 2,
        },
        **FAMILIES[cell.task].fields,
    }  # fmt: skip


def look(cell: Cell, folder: Path, outcome: Outcome) -> None:
    """Trains, resumes, reloads, and compares loss and gradient with the textbook's."""
    given = spec(cell)
    jobs: list[Job] = []

    def train(output: str, **how: bool) -> kt.Run:
        return kt.train(recipe.from_dict({**given, "output": output}, folder), display=QUIET, **how)

    with building(jobs), copying(STEPS - 1, folder / "whole", folder / "cut"):
        finished = train("whole")
    (job,) = jobs
    outcome.weights = sum(weight.numel() for weight in job.model.parameters())
    again = train("cut", resume=True)
    left, right = (load_file(run.model / "model.safetensors") for run in (finished, again))
    outcome.resumed = left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)
    outcome.saved = saved(finished, job)
    for dtype in (torch.float64, torch.float32):
        outcome.dtype, failure = str(dtype).removeprefix("torch."), None
        try:
            compare(job, outcome, dtype)
            outcome.accumulation = error_of_accumulation(job, folder / outcome.dtype, dtype)
        except (RuntimeError, ArithmeticError, KeeltuneError) as error:  # some compute in float32 whatever they hold
            failure = error
        outcome.judge()
        if outcome.outcome == "passed":
            return
    if failure is not None:
        raise failure


@contextlib.contextmanager
def building(jobs: list[Job]) -> Iterator[None]:
    original = build.build
    build.build = lambda *args: jobs.append(original(*args)) or jobs[-1]  # type: ignore[func-returns-value,assignment]
    try:
        yield
    finally:
        build.build = original


@contextlib.contextmanager
def copying(step: int, source: Path, target: Path) -> Iterator[None]:
    """Copies a run's folder in the middle of step `step` + 1: what `kill -9` at that moment would leave."""
    original = KeelTrainer.compute_loss

    def copied(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step and not target.exists():
            shutil.copytree(source, target)
        return original(self, *args, **kwargs)

    KeelTrainer.compute_loss = copied  # type: ignore[method-assign]
    try:
        yield
    finally:
        KeelTrainer.compute_loss = original  # type: ignore[method-assign]


def saved(finished: kt.Run, job: Job) -> bool:
    """Whether stock transformers loads the folder whole and predicts what the run did, row by row."""
    file = finished.folder / "predictions" / "test.jsonl"
    stored = [json.loads(line)["prediction"] for line in file.read_text(encoding="utf-8").splitlines()]
    stock, said = getattr(transformers, job.material.auto_model).from_pretrained(
        finished.model, dtype=torch.float32, output_loading_info=True
    )
    found = prediction.predict(stock, job.material.task, job.material.encoded["test"], batch_size=1)
    return not any(said.values()) and [answer.value for answer in found] == stored


def compare(job: Job, outcome: Outcome, dtype: torch.dtype) -> None:
    """Loss and gradient of a step of four examples, as training computes them and as the textbook does."""
    task, teacher = job.material.task, job.reference
    assert isinstance(teacher, Model)
    student, theirs = still(job.model, dtype).train(), still(teacher.model, dtype).eval()
    for norm in surgery.batch_norms(student):
        norm.eval()
    reference = Model(theirs, teacher.to_rows, entry=teacher.entry, forward=teacher.forward)
    examples = job.plan.micro_batch(0, 0, 0) + job.plan.micro_batch(0, 0, 1)
    batch = doubled(task.collate(examples), dtype)
    loss = StepLoss(task, job.objective, reference)
    counts = [torch.tensor(n, dtype=torch.float64) for n in (*loss.counts(batch), len(examples))]
    student.zero_grad()
    theirs_of = loss(student, batch, counts)
    theirs_of.total.backward()
    ours, (ce, d) = closed_form.flat(student), (theirs_of.sums[:2] / torch.stack(counts[:2])).tolist()
    plain = still(student, dtype)  # in train mode: in eval mode some write their own cache over what was computed
    for norm in surgery.batch_norms(plain):
        norm.eval()
    expected_ce, expected_d, gradient = closed_form.loss_and_gradient(
        task, plain, theirs, examples, job.objective.weight
    )
    whole = abs(expected_ce) + job.objective.weight * abs(expected_d)
    outcome.cross_entropy = abs(ce - expected_ce) / abs(expected_ce)
    outcome.divergence = job.objective.weight * abs(d - expected_d) / whole
    outcome.gradient = float((ours - gradient).norm() / gradient.norm())


__all__ = ["RATE", "Outcome", "asdict", "replace", "run"]
