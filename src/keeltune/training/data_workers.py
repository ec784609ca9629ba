"""The processes that make micro-batches ahead of the training: what each is at, and what is said when one fails.

A worker that raises sends what it raised in the place of the batch. One that dies is noticed by torch; one that hangs
by nobody: it is ended here when the training waits for it and for `patience` seconds it has not computed, read, written
or waited for a disk. It may take as long as it needs while it does. Each fault names the worker and the rows it was at.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from keeltune.training.batch_plan import Plan, only
from keeltune.utils.disk_space import free_bytes
from keeltune.utils.errors import KeeltuneError, OutOfResources, Stopped
from keeltune.utils.process_state import ProcessName, activity, busy, this_process
from keeltune.utils.system_faults import foreseen, reason

ROUND = 1.0
"""Seconds between two looks at the workers."""

NAMED = 8
"""How many rows of a micro-batch are named."""

PROCESS, STARTED, ITEM, AT_WORK, COLUMNS = range(5)
"""What the board has of a worker: its process and when that was started, the item of the plan, whether it is at it."""

DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""

SHARED_MEMORY = Path("/dev/shm")

OF_WORKERS = re.compile(r"DataLoader worker|unable to (write|mmap|open|resize) .*torch_")
"""What torch says of a worker that is gone, or of the memory in which workers hand over what they made."""


@dataclass(frozen=True)
class Failure:
    """What a worker sends in the place of the micro-batch that it cannot make."""

    worker: int
    item: int
    error: KeeltuneError


class _Supervised(Dataset[Any]):
    """The plan as workers read it, each of whom notes on the board what it is at."""

    def __init__(self, plan: Plan, board: Any):
        self.plan, self.board = plan, board

    def set_epoch(self, epoch: int) -> None:
        self.plan.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> Any:
        if (info := get_worker_info()) is None:
            return self.plan[item]
        row = COLUMNS * info.id
        self.board[row + ITEM], self.board[row + AT_WORK] = item, 1
        try:
            return self.plan[item]
        except Exception as error:
            return Failure(info.id, item, _as_ours(error))
        finally:
            self.board[row + AT_WORK] = 0

    def begin(self, worker: int) -> None:
        """A worker's first act. It ends with its parent, also where it hangs, and by what torch ends it with."""
        process = this_process()
        self.board[COLUMNS * worker + STARTED], self.board[COLUMNS * worker + PROCESS] = process.started, process.pid
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_ours(error: Exception) -> KeeltuneError:
    """An error as one that survives the way to another process."""
    if isinstance(error, KeeltuneError):
        return error
    if (known := foreseen(error, Path())) is not None:
        return known
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return KeeltuneError(f"{type(error).__name__}: {reason(error)} ({Path(frame.filename).name}:{frame.lineno})")


class DataWorkers:
    """The workers of a training.

    Args:
        number: how many; 0: the training makes its own batches, and none of this happens.

    `patience`: seconds in which a worker that is waited for must have done something. `locate`: where the rows of some
    keys are, as `file:line`.
    """

    def __init__(self, plan: Plan, number: int):
        self.plan, self.number, self.patience = plan, number, 20.0
        self.locate: Callable[[Collection[str]], Mapping[str, str]] = lambda keys: {}
        self.board = RawArray("q", COLUMNS * max(number, 1))
        self.waiting, self.ended = threading.Event(), threading.Event()
        self.hung: list[int] = []
        self.fault: BaseException | None = None

    def loader(self, *, pin_memory: bool) -> DataLoader[Any]:
        """The plan's micro-batches, an item each: accelerate loses batches of a loader without a batch size."""
        dataset = _Supervised(self.plan, self.board)
        begin = dataset.begin if self.number else None
        return DataLoader(
            dataset, batch_size=1, collate_fn=only, num_workers=self.number, pin_memory=pin_memory, worker_init_fn=begin
        )

    def take(self, iterator: Iterator[Any], count: int) -> Iterator[Any]:
        """The next `count` micro-batches. Raises what a worker raised, or the watch over them."""
        for _ in range(count):
            if self.fault is not None:
                raise RuntimeError("the watch over the data workers has failed") from self.fault
            self.waiting.set()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waiting.clear()
            if isinstance(batch, Failure):
                raise self._raised(batch)
            yield batch

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within: workers that hang are ended, and what becomes of a worker is raised as an error of ours."""
        if not self.number:
            yield
            return
        threading.Thread(target=self.run_watch, name="data workers", daemon=True).start()
        try:
            yield
        except BaseException as error:
            lost = self._lost(error) if isinstance(error, RuntimeError) and OF_WORKERS.search(str(error)) else None
            for process in map(self._process, range(self.number)):
                if process.state() == "stopped":
                    os.kill(process.pid, signal.SIGCONT)  # or it would not end when it is told to
            traceback.clear_frames(error.__traceback__)  # they hold the loader's iterator, and that holds the workers
            if lost is None:
                raise
            raise lost from error
        finally:
            self.ended.set()

    def _process(self, worker: int) -> ProcessName:
        row = COLUMNS * worker
        return ProcessName(this_process().place, self.board[row + PROCESS], self.board[row + STARTED])

    def run_watch(self) -> None:
        """The watching thread: until the training has ended, or until it fails itself (`fault`)."""
        try:
            done: dict[int, Any] = {}
            idle = [0] * self.number
            while not self.ended.wait(ROUND):
                for worker in range(self.number):
                    process = self._process(worker)
                    now = activity(process.pid) if process.state() in ("alive", "stopped") else None
                    still = now is not None and now == done.get(worker) and not busy(process.pid)
                    still = still and self.waiting.is_set()
                    idle[worker] = idle[worker] + 1 if still else 0
                    done[worker] = now
                late = [worker for worker in range(self.number) if idle[worker] * ROUND >= self.patience]
                at_work = [worker for worker in late if self.board[COLUMNS * worker + AT_WORK]]
                if at_work or len(late) == self.number:  # all wait, and so does the training: a batch was lost
                    self.hung = at_work or late
                    for worker in self.hung:
                        self._process(worker).kill()
        except BaseException as error:
            self.fault = error

    def _raised(self, failure: Failure) -> KeeltuneError:
        error, where = failure.error, f"data worker {failure.worker}, at {self._rows(failure.item)}"
        if type(error) is KeeltuneError:
            return KeeltuneError(f"{where}, failed: {error}")
        error.add_note(where)
        return error

    def _lost(self, error: RuntimeError) -> KeeltuneError:
        """What became of a worker, of torch's error."""
        text = str(error).strip().splitlines()[0]
        numbers = {int(number) for number in re.findall(r"\d+", text)}
        named = [n for n in range(self.number) if self.board[COLUMNS * n + PROCESS] in numbers]
        workers = self.hung or named or [*range(self.number)]
        what = "; ".join(
            f"data worker {n} (process {self._process(n).pid}), at {self._rows(self.board[COLUMNS * n + ITEM])}"
            for n in workers[:4]
        )
        again = "go on with the same command and --resume"
        if "Bus error" in str(error) or "torch_" in text:
            return OutOfResources(
                f"{SHARED_MEMORY}, where data workers hand over what they made, is full ({free_bytes(SHARED_MEMORY)} "
                f"bytes free): {what}. Make it larger, or set training.dataloader_num_workers: 0; {again}"
            )
        if self.hung:
            return Stopped(f"{what}, did nothing for {self.patience:.0f} seconds (training.dataloader_timeout) and was "
                           f"ended; {again}")  # fmt: skip
        return Stopped(f"{what}, died: {text}; {again}")

    def _rows(self, item: int) -> str:
        """The rows of an item of the plan."""
        step, index = divmod(item, self.plan.micro_batches)
        examples = self.plan.micro_batch(self.plan.epoch, step, index)
        keys = [example.key.partition("#")[0] for example in examples[:NAMED]]
        places = self.locate(set(keys))
        names = ", ".join(f"{places.get(key, 'row')} ({key[:12]})" for key in keys)
        more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
        return f"step {step + 1} of the epoch, rows {names}{more}"
