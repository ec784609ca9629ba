"""Mutated files one by one: how each ends, in how long, with how much memory."""

from __future__ import annotations

import gc
import io
import logging
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

from keeltune.utils.errors import KeeltuneError
from keeltune.utils.system_faults import system_faults
from keeltune.utils.terminal import Terminal
from tests.bad_inputs.fuzz.mutations import mutated
from tests.bad_inputs.fuzz.readers import OF_ONE_MODEL, READERS, Desk, Seed, one_model
from tests.bad_inputs.limits import BYTES, SECONDS, TooLong, bounded, peak, unprintable


@dataclass(frozen=True)
class Trial:
    """How a case ended: `fault` is empty where that is well or with the user's error; `status` 0 or 2."""

    case: int
    seed: str
    status: int | None
    fault: str = ""
    detail: str = ""


def file_of(reader: str, seeds: list[Seed], number: int, case: int) -> tuple[Seed, bytes]:
    """The whole file that case `case` begins with, and the mutated one: the same at every call."""
    random = Random(f"{reader} {number} {case}")
    seed = seeds[case % len(seeds)]
    others = [other.data for other in seeds if other is not seed]
    return seed, mutated(seed.data, random, seed.structure, others)


def trials(reader: str, folder: Path, number: int, cases: range) -> Iterator[Trial]:
    """The cases of one reader, in order."""
    seeds = READERS[reader](Desk(folder))
    with one_model() if reader in OF_ONE_MODEL else nullcontext():
        for seed in seeds:
            with quiet():
                seed.read(seed.data)  # a whole file is read, or the trial proves nothing
        gc.collect()
        gc.freeze()
        for case in cases:
            yield trial(*file_of(reader, seeds, number, case), case)


def trial(seed: Seed, data: bytes, case: int) -> Trial:
    """One mutated file, read."""
    before, started = peak(), time.process_time()
    status: int | None = 0
    fault = detail = ""
    try:
        with quiet(), bounded(), system_faults():
            seed.read(data)
    except KeeltuneError as error:
        status = error.exit_status
        if status != 2:
            fault = f"exit {status}: {type(error).__name__}"
        elif faults := [
            p for p in getattr(error, "problems", []) if not (p.where and p.found and p.expected and p.fix)
        ]:
            fault, detail = "a problem that lacks a part", repr(faults[0])
        elif unprintable(printed(error)):
            fault, detail = "a message with control characters", repr(str(error))
    except (Exception, TooLong, SystemExit) as error:
        status, fault, detail = None, named(error), traceback.format_exc()
    seconds, grown = time.process_time() - started, peak() - before
    if not fault and seconds > SECONDS:
        fault = f"more than {SECONDS:g} s"
    if not fault and grown > BYTES:
        fault = f"{grown / 1e6:.0f} MB more than before"
    return Trial(case, seed.name, status, fault, detail)


def printed(error: Exception) -> str:
    """An error's message as the command prints it."""
    sink = io.StringIO()
    Terminal(file=sink).block(str(error))
    return sink.getvalue()


def named(error: BaseException) -> str:
    """The error with the last place in the package that it went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/keeltune/" in f.filename]
    last = f"{frames[-1].filename.split('/keeltune/')[-1]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {last}"


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed or logged."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        yield
