"""A run: its folder, its status, and `train`, which makes one (`seeds.train`: several, where a recipe asks for them).

    recipe.yaml  result.json  report.html  log.jsonl  model/  checkpoints/  predictions/{validation,test,source}.jsonl

Every file is written beside and then renamed, so that none is ever half there. `result.json` is the contract that
tools read; what is absent is null, never NaN.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import transformers
from transformers import TrainerCallback

from keeltune import (
    __version__,
    bias,
    build,
    census,
    checkpoints,
    domains,
    gate,
    guard,
    history,
    models,
    prepare,
    report,
    results,
    scoring,
    surgery,
)
from keeltune.build import Job
from keeltune.callbacks import Enough
from keeltune.display import Advance, Display
from keeltune.prepare import SCORED, Material
from keeltune.problems import Diverged, KeeltuneError, OutOfResources, Problem, StateRefused, Stopped, UserError
from keeltune.recipe import Recipe, opened
from keeltune.results import empty, write_json, write_text
from keeltune.self_test import SELF_TEST_ROWS, self_test
from keeltune.tasks.task import to_device
from keeltune.trainer import KeelTrainer, training_arguments

OURS = (
    "recipe.yaml",
    "result.json",
    "report.html",
    "log.jsonl",
    "skipped.jsonl",
    "model",
    "source_model",
    "adapter",
    "checkpoints",
    "predictions",
)
"""What a run writes into its folder, and all that `--overwrite` removes."""

SEED = re.compile(r"seed-\d+(-failed)?")
"""The folders of a run of several seeds."""

NO_SPACE = (27, 28, 122)
"""Errors of the system: file too large, no space left, quota exceeded."""

FULL_DISK = ("no space left", "os error 28", "disk quota", "file write failed", "pytorchstreamwriter failed writing")
NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the contents of its `result.json`."""

    folder: Path
    result: dict[str, Any]

    @property
    def model(self) -> Path:
        """A plain `save_pretrained` folder, which transformers loads with no keeltune installed; the best seed's."""
        return self.parts[self.best] / "model"

    @property
    def parts(self) -> list[Path]:
        """The folders of a run of several seeds; of one seed the run's own."""
        seeds = self.result.get("seeds")
        return [self.folder / name for name in seeds["folders"]] if seeds else [self.folder]

    @property
    def best(self) -> int:
        """Which of `parts` is the best by validation."""
        seeds = self.result.get("seeds")
        return int(seeds["folders"].index(seeds["best"])) if seeds else 0


@models.quietly()
def train(
    recipe: Recipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> Run:
    """One run of a recipe with one seed; arguments and errors are those of `seeds.train`, which makes several."""
    recipe = opened(recipe)
    if isinstance(recipe.training.seed, list) and len(set(recipe.training.seed)) > 1:
        raise ValueError(f"found {len(recipe.training.seed)} seeds, expected one; kt.train makes a run of each")
    main = is_main_process()
    display = display or Display(quiet=not main)
    folder = recipe.path(recipe.output)
    if main:  # the others would find what this process has already made
        claim(folder, resume=resume, overwrite=overwrite)
    with _resources(folder):
        material = prepare.gather(recipe, progress=lambda what: display.say(f"{what} …"))
        for warning in material.warnings:
            display.say(f"warning: {warning}")
        if material.skipped:
            display.say(f"warning: {len(material.skipped)} rows skipped; they are listed in {folder / 'skipped.jsonl'}")
        identity = checkpoints.identity_of(material)
        checkpoint = checkpoints.newest(folder, identity, recipe, display) if resume else None
        if resume and (done := finished(folder)):
            display.say(f"{folder} holds a finished run; nothing is left to do")
            return done
        transformers.set_seed(recipe.seed)
        origin, precision = checkpoints.decided(folder) if checkpoint else (None, None)
        job = build.build(material, display, origin, precision)
        if main:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_text(folder / "recipe.yaml", recipe.dump())
            write_text(folder / "checkpoints" / "identity.json", json.dumps(identity, indent=1))
            checkpoints.keep_decided(folder, job, resumed=checkpoint is not None)
            _write_skipped(folder, material)
        for note in (*material.notices, *job.student.notes, *surgery.batch_norm_notes(job.model)):
            display.say(note)
        display.say(_headline(job))
        with status_of(folder, recipe, main):
            return _train(job, folder, checkpoint, display, main)


def is_main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def _train(job: Job, folder: Path, checkpoint: Path | None, display: Display, main: bool) -> Run:
    recipe, material = job.material.recipe, job.material
    spec = recipe.training
    pace = guard.pace(material)
    arguments = training_arguments(
        folder / "checkpoints",
        batch_size=material.batch_size,
        accumulation=spec.gradient_accumulation_steps,
        epochs=spec.epochs or 1,
        max_steps=spec.max_steps,
        every=pace.every,
        learning_rate=spec.learning_rate,
        seed=recipe.seed,
        passed=spec.passed,
    )
    rows = job.plan.micro_batch(0, 0, 0)
    small = [*rows[:SELF_TEST_ROWS], *rows[-1:], *[row for row in rows if row.anchored][-1:]]
    batch = to_device(build.collated(job, small), job.device)
    if job.beside is None:
        self_test(job.model, material.task, job.objective, job.reference, batch)
    else:
        self_test(job.model, material.task, job.objective, None, batch)
        if "held" in batch:
            self_test(job.beside.model, job.beside.task, job.objective, job.reference, batch["held"])
    before = scoring.before(job, folder, display, main)
    judged = gate.judge(job, before["validation"], display)
    for line in gate.lines(judged):
        display.say(line)
    overruled = domains.veto(job)
    for line in domains.veto_lines(overruled, taught=recipe.taught):
        display.say(line)
    watcher = Watcher(folder / "log.jsonl", display, main)
    budget = domains.budget(job, before)  # its weight settles at the end alone: there is no best one before
    keeps = material.rows["validation"] and budget is None
    trainer = KeelTrainer(
        job.model,
        arguments,
        job.plan,
        task=material.task,
        objective=job.objective,
        reference=job.reference,
        matching=job.matching,
        autocast=job.autocast,
        validate=scoring.validator(job) if material.rows["validation"] else None,
        pace=pace if budget is None else replace(pace, patience=None, averages=False),
        best=folder / "checkpoints" / "best.safetensors" if keeps else None,
        budget=budget,
        beside=job.beside,
        tether=_tether(job),
        regularizers=spec.regularizers,
        callbacks=[watcher],
    )
    if checkpoint is not None and (foreign := trainer.foreign(checkpoint)):
        found = f"{len(foreign)} weights that the model does not have ({foreign[0]}, …)"
        expected, mend = "the weights of this model, as this version saves them", "start anew with --overwrite"
        raise StateRefused(Problem(str(checkpoint), "checkpoint", found, expected, mend))
    try:
        with display.bar("training", material.steps) as advance, _signals(trainer):
            watcher.advance = advance
            with suppress(Enough):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        trainer.release()
    if trainer.ledger.stopping and trainer.state.global_step < trainer.state.max_steps:
        raise Stopped(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved in "
            f"{folder / 'checkpoints'}; go on with the same command and --resume"
        )
    if trainer.state.global_step < trainer.state.max_steps:
        display.say(
            f"training ended at step {trainer.state.global_step} of {trainer.state.max_steps}: {pace.patience} "
            "evaluations without a gain (evaluation.patience: null trains on)"
        )
    trainer.load_best()
    model = job.model
    if job.matching is not None:
        job.matching.detach(model)
    if broken := [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]:
        raise Diverged(f"{broken[0]} and {len(broken) - 1} more weights are not finite; lower learning_rate")
    if spec.lora is not None:
        if main:
            model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    settled = domains.settle(job, model, before, display)
    if job.half is not None:
        for weight in model.parameters():  # what is scored is what is stored
            weight.data = weight.data.to(job.half).float()
    after = {split: scoring.score(job, model, split, folder / "predictions", display, main) for split in SCORED}
    result = results.result(job, trainer, before, after, judged) | {
        "veto": overruled,
        "budget": domains.kept(job, trainer.ledger.trajectory, settled),
        "interpolation": settled.interpolation,
    }
    if main:
        models.save(model, job.student.processor, folder / "model", half=job.half)
        if job.beside is not None and job.beside.task.choices == "labels":
            models.save(job.beside.model, job.student.processor, folder / "source_model", half=job.half)
        with _no_loss("forgetting", display):
            result["forgetting"] = domains.forgetting(job, model, folder / "predictions", before, after, settled)
        with _no_loss("overfitting", display):
            result |= guard.report(job, model, folder, after, trainer.state.log_history, result["forgetting"])
            result["overfitting"]["averaged"] = trainer.of_two is not None
        with _no_loss("audit", display):
            result["audit"] = census.taken(material)
        with _no_loss("bias", display):
            result["bias"] = bias.report(job, model, folder, before, after)
        for line in (*domains.lines(result), *guard.lines(result), *bias.lines(result)):
            display.say(line)
        write_text(folder / "model" / "README.md", report.model_card(recipe, result))
        if tested := result["data"]["test"]:
            history.look(folder, by="train", fingerprint=tested["fingerprint"], rows=tested["rows"])
        write_json(folder / "result.json", result)
        write_text(folder / "report.html", report.page(folder, result))
    _barrier()
    return Run(folder, result)


@contextmanager
def _no_loss(what: str, display: Display) -> Iterator[None]:
    """A fault of ours in an analysis of a finished training is said, and costs that analysis, not the training."""
    try:
        yield
    except Exception as error:
        display.say(f"warning: no {what} in this report, by a bug of keeltune: {type(error).__name__}: {error}")


def _tether(job: Job) -> tuple[dict[str, torch.Tensor], float] | None:
    """The weights that L2-SP holds near what they are now, and how strongly: those that were not drawn at random."""
    strength = job.material.recipe.training.l2_sp
    if strength is None:
        return None
    own = {n: p for n, p in job.model.named_parameters() if p.requires_grad and n not in job.student.fresh}
    return {name: weight.detach().clone() for name, weight in own.items()}, strength


def _line(entry: dict[str, Any]) -> str:
    """A log entry as a line; its keys sorted, as a checkpoint keeps them, so that a resumed run's log is the same."""
    return json.dumps(entry, sort_keys=True) + "\n"


class Watcher(TrainerCallback):
    """Writes `log.jsonl` and moves the bar. The log is the Trainer's history: a resumed run's has no double lines."""

    def __init__(self, file: Path, display: Display, main: bool):
        self.file, self.display, self.main = file, display, main
        self.advance: Advance = lambda done, note="": None
        self.step = 0
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.main:
            write_text(self.file, "".join(_line(entry) for entry in state.log_history))
        self._move(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        entry = state.log_history[-1]
        if self.main:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(_line(entry))
        if "loss" in entry:
            terms = [
                f"{name} {entry[name]:.4f}"
                for name in ("loss", "cross_entropy", "divergence", "matching")
                if name in entry
            ]
            self.note = " · ".join(terms)
        elif scores := [f"{k.removeprefix('eval_')} {v:.4f}" for k, v in entry.items() if k.startswith("eval_")]:
            self.display.say(f"  step {state.global_step}: validation {' · '.join(scores)}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._move(state)

    def _move(self, state: Any) -> None:
        self.advance(state.global_step - self.step, self.note)
        self.step = state.global_step


@contextmanager
def _signals(trainer: KeelTrainer) -> Iterator[None]:
    """While training, the first Ctrl-C or SIGTERM asks for a stop at the next step's end; the second ends at once."""

    def ask(number: int, frame: Any) -> None:
        if trainer.ledger.stop_asked:
            raise KeyboardInterrupt
        trainer.ledger.stop_asked = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's signals are the caller's
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def status_of(folder: Path, recipe: Recipe, main: bool) -> Iterator[None]:
    """A run that ends early says so in its `result.json`; one that has its result keeps it."""
    status = "failed"
    try:
        yield
        return
    except Stopped:
        status = "stopped"
        raise
    except Diverged:
        status = "diverged"
        raise
    finally:
        if main and sys.exc_info()[0] is not None and finished(folder) is None:
            unfinished = {"keeltune": __version__, "task": recipe.task, "method": recipe.method, "status": status}
            with suppress(OSError):  # on a full disk the message counts, not the file
                write_json(folder / "result.json", {**empty(), **unfinished})


@contextmanager
def _resources(folder: Path) -> Iterator[None]:
    """A full disk or memory, whichever library meets it, becomes a message of ours."""
    try:
        yield
    except KeeltuneError:
        raise
    except Exception as error:
        text = f"{error} {error.__cause__ or ''}".lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in NO_MEMORY):
            raise OutOfResources(
                f"out of memory ({error}); lower training.batch_size and raise gradient_accumulation_steps by the same "
                "factor: the result is the same"
            ) from error
        if (isinstance(error, OSError) and error.errno in NO_SPACE) or any(sign in text for sign in FULL_DISK):
            free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
            raise OutOfResources(
                f"the disk of {folder} is full ({free} bytes free; {error}); make room and go on with --resume"
            ) from error
        raise


def finished(folder: Path) -> Run | None:
    """The run that lies complete in a folder; None where there is none."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Run(folder, result) if result.get("status") == "completed" else None


def claim(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a used output folder, or one that cannot be written, before anything is read."""

    def refuse(found: str, mend: str, expected: str = "an empty or a new folder") -> UserError:
        return UserError(Problem(str(folder), "output", found, expected, mend))

    if resume and overwrite:
        raise refuse("--resume and --overwrite", "leave one of them out", "to go on with a run, or to start anew")
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        raise refuse(f"{there}, which is a file", "name another folder in `output`")
    if not os.access(there, os.W_OK):
        raise refuse(f"no permission to write to {there}", "name a folder that you may write to")
    used = folder.is_dir() and any(path.name != history.LOOKS for path in folder.iterdir())
    ours = any((folder / name).is_file() for name in ("recipe.yaml", "result.json"))
    if used and overwrite and not ours:
        raise refuse("files that no run wrote", "name another folder; --overwrite only removes runs of keeltune")
    if used and not (resume or overwrite):
        raise refuse(
            "a folder that is in use", "--resume goes on with it, --overwrite starts anew, or name another folder"
        )
    if overwrite:  # but for the looks at the test rows: who trains anew after a look has looked
        seeds = [path.parent for path in folder.glob("seed-*/recipe.yaml") if SEED.fullmatch(path.parent.name)]
        for path in (*(folder / name for name in OURS), *seeds):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _headline(job: Job) -> str:
    parameters = sum(p.numel() for p in job.model.parameters() if p.requires_grad)
    parts = [
        f"{job.material.recipe.task} · {job.material.recipe.method}",
        f"{parameters / 1e6:.1f} M trained parameters",
        f"{job.material.steps} steps of {job.plan.step_size} rows",
        f"{job.precision} on {job.device}",
    ]
    if used := job.material.recipe.training.regularizers.used:
        parts.append(", ".join(f"{name} {value}" for name, value in used.items()))
    if job.reference is not None:
        reason = f" ({job.origin.reason})" if job.origin.reason else ""
        parts.append(f"reference: {job.reference.kind}{reason}, weight {job.objective.weight:.3g}")
    return " · ".join(parts)


def _write_skipped(folder: Path, material: Material) -> None:
    if material.skipped:
        lines = [json.dumps(vars(problem), ensure_ascii=False) + "\n" for problem in material.skipped]
        write_text(folder / "skipped.jsonl", "".join(lines))


def _barrier() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
