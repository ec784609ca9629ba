"""The processes that train together end together: one that is lost, or that fails, ends the others, with its reason.

    gone      it is not there any more: killed, or dead without a word                      within 5 s on one machine
    stopped   it got SIGSTOP, and nobody let it go on for STOPPED seconds; it is ended
    silent    nothing was heard of it, on another machine, or of the store, for SILENCE seconds
    stuck     the others have waited for it in one operation for `patience` seconds (training.ddp_timeout)
    raised    it ended with an error: the exit status of all, and its message is the only one

A long phase in which the others wait for one process is none of these: its records go on (`heartbeat.py`). Seconds are
rounds of the judge's own, so that a group that is stopped as a whole (Ctrl-Z, a machine that sleeps) goes on as one.
The main thread raises what is judged; where it hangs in an operation of torch, which nothing interrupts, the judge ends
the process.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from keeltune.utils import heartbeat
from keeltune.utils.errors import Diverged, KeeltuneError, OutOfResources, Stopped
from keeltune.utils.heartbeat import Heartbeat, Record, Verdict

STOPPED = 10
"""Rounds after which a stopped process is not waited for any longer."""

SILENCE = 20
"""Rounds without a word after which a process of another machine, or the store, is given up."""

GRACE = 3
"""Rounds in which the main thread may end by itself when all is over."""

UNWINDING = 10
"""Rounds more, where it is about to."""

LOST_PEER = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "timed out waiting")
"""What torch's errors say of an operation in which another process does not take part any more."""


@dataclass
class _Count:
    """Rounds since which a process has been quiet, stopped, waited for; the exchange in which it was first gone."""

    beat: int = 0
    quiet: int = 0
    stopped: int = 0
    waited: int = 0
    gone: int | None = None


@dataclass
class RankWatch:
    """One process's watch over the others of its group.

    Args:
        holds_store: whether the group's store ends with this process.
        patience: seconds that the others are waited for in one operation.

    `last_words`: what is done before the judge ends this process; `raised`: another one's end, once it was raised here.
    """

    heartbeat: Heartbeat
    holds_store: bool
    patience: float
    verdict: Verdict | None = None
    last_words: list[Callable[[KeeltuneError], None]] = field(default_factory=list)
    raised: KeeltuneError | None = None

    def __post_init__(self) -> None:
        self.counts: dict[int, _Count] = {}
        self.lock = threading.Lock()
        self.unwinding = self.closed = self.patient = False
        self.since, self.rounds, self.store_quiet = 0.0, 0, 0
        self.fault: BaseException | None = None

    # The main thread

    def start(self) -> None:
        self.heartbeat.start()
        threading.Thread(target=self._run, name="rank watch", daemon=True).start()

    @contextmanager
    def waiting(self, *, patient: bool = False) -> Iterator[None]:
        """Within: an operation of all processes. `patient`: one of them has something long to do before."""
        self.check()
        self.heartbeat.own.mark += 1
        self.patient = patient
        try:
            yield
        finally:
            self.patient = False

    def check(self) -> None:
        """Raises what another process ended with, or a fault of this watch."""
        if fault := self.fault or self.heartbeat.fault:
            raise RuntimeError("the watch over the other processes has failed") from fault
        if self.verdict is not None:
            raise self._error(self.verdict)

    def cause(self, error: BaseException) -> KeeltuneError | None:
        """The end of another process, where that is behind an error of this one; it may take a while to be known."""
        broken, asked = _of_lost_peer(error), isinstance(error, Stopped) or not isinstance(error, Exception)
        if isinstance(error, KeeltuneError) and not asked:
            return None
        if self.verdict is None and (broken or asked):  # a launcher that misses one asks the others to stop
            until = time.monotonic() + (SILENCE + 5 if broken else 5) * heartbeat.ROUND
            while self.verdict is None and time.monotonic() < until and (broken or self._any_gone()):
                with suppress(BaseException):  # the launcher, which misses the other process too, asks for a stop
                    time.sleep(heartbeat.ROUND / 20)
        with self.lock:  # which the judge keeps when it ends this process
            self.unwinding = True
        if self.verdict is None or (asked and self.verdict.raised):
            return None
        return self._error(self.verdict)

    def fail(self, message: str, status: int) -> bool:
        """Ends the others, as this process ends with an error; whether it is the one to say so."""
        with self.lock:
            self.unwinding = True
        if self.verdict is None:
            self._decide(Verdict(self.heartbeat.rank, status, message, raised=True))
        try:
            return self.heartbeat.lost or self.heartbeat.first_to_say()
        except RuntimeError:
            return True

    def close(self) -> None:
        """This process has ended its part. The others are told; one that holds the store waits until they know."""
        beat, self.closed = self.heartbeat, True
        beat.own.left = True
        begun, until = beat.rounds, time.monotonic() + 5 * heartbeat.ROUND
        beat.hurry.set()
        while time.monotonic() < until and not beat.lost and not beat.fault:
            told = beat.rounds > begun + 1  # an exchange that began after `left` was set has ended
            if told and not (self.holds_store and any(self._there(record) for record in beat.others.values())):
                break
            time.sleep(heartbeat.ROUND / 50)
        beat.done.set()

    def _any_gone(self) -> bool:
        return any(not other.left and other.process.state() == "gone" for other in self.heartbeat.others.values())

    @staticmethod
    def _there(record: Record) -> bool:
        return not record.left and record.process.state() != "gone"

    def _error(self, verdict: Verdict) -> KeeltuneError:
        kinds = {kind.exit_status: kind for kind in (Stopped, Diverged, OutOfResources)}
        error = kinds.get(verdict.status, KeeltuneError)(verdict.text)
        error.exit_status = verdict.status
        error.said = not self._speaks(verdict)
        return error

    # The thread that judges

    def _run(self) -> None:
        try:
            while not self.closed:
                time.sleep(heartbeat.ROUND)
                self.judge()
                self._end_if_hung()
        except BaseException as error:
            self.fault = error

    def judge(self) -> None:
        """A round: looks at the newest record of each other process."""
        self.store_quiet = 0 if self.rounds != self.heartbeat.rounds else self.store_quiet + 1
        self.rounds = self.heartbeat.rounds
        for rank, record in sorted(self.heartbeat.others.items()):
            if self.verdict is None and record.verdict is not None:
                self._decide(record.verdict)
            elif self.verdict is None and not record.left:
                self._judge_one(rank, record, self.counts.setdefault(rank, _Count()))
        self._judge_store()

    def _judge_one(self, rank: int, record: Record, count: _Count) -> None:
        name, state = f"rank {rank} of {self.heartbeat.world} ({record.name})", record.process.state()
        count.quiet = count.quiet + 1 if record.beat == count.beat else 0
        count.stopped = count.stopped + 1 if state == "stopped" else 0
        count.beat = record.beat
        own = self.heartbeat.own
        waited = own.waiting and not self.patient and not record.waiting and record.mark <= own.mark
        count.waited = count.waited + 1 if waited else 0
        if state == "gone":
            count.gone = self.rounds if count.gone is None else count.gone
            if self.rounds > count.gone + 1 or self.heartbeat.lost:  # it would have said that it leaves
                self._lose(rank, f"{name} is gone: it was killed, or died without a word")
        elif count.stopped >= STOPPED:
            self._lose(rank, f"{name} had been stopped (SIGSTOP) for {STOPPED} seconds and was ended")
        elif state == "unknown" and count.quiet >= SILENCE and not self._store_silent:
            self._lose(rank, f"{name} has not been heard of for {SILENCE} seconds")
        elif count.waited * heartbeat.ROUND >= self.patience:
            at = f" at {record.place}" if record.place else ""
            self._lose(
                rank, f"{name} has kept the others waiting{at} for {self.patience:.0f} seconds (training.ddp_timeout)"
            )

    @property
    def _store_silent(self) -> bool:
        return self.heartbeat.lost or self.store_quiet >= SILENCE

    def _judge_store(self) -> None:
        if self.verdict is None and not self.holds_store and self._store_silent:
            self._lose(0, "rank 0, or the launcher (torchrun), does not answer any more")

    def _lose(self, rank: int, text: str) -> None:
        if (lost := self.heartbeat.others.get(rank)) and lost.process.state() == "stopped":
            lost.process.kill()  # it would notice no other signal
        text = f"{text}; all processes of the run end. Start it again with the same command and --resume"
        self._decide(Verdict(rank, Stopped.exit_status, text, raised=False))

    def _decide(self, verdict: Verdict) -> None:
        self.since = time.monotonic()
        self.verdict = self.heartbeat.own.verdict = verdict
        self.heartbeat.hurry.set()

    def _speaks(self, verdict: Verdict) -> bool:
        """Whether this process says the verdict: the first that is left, unless another one raised it."""
        if verdict.raised or verdict.rank == self.heartbeat.rank:
            return False
        here = {rank for rank, record in self.heartbeat.others.items() if self._there(record)} - {verdict.rank}
        return self.heartbeat.rank < min(here, default=self.heartbeat.world)

    def _end_if_hung(self) -> None:
        verdict, since = self.verdict, (time.monotonic() - self.since) / heartbeat.ROUND
        if verdict is None or since < GRACE:
            return
        with self.lock:
            if self.closed or (self.unwinding and since < GRACE + UNWINDING):
                return
            error = self._error(verdict)
            for speak in self.last_words:
                with suppress(Exception):
                    speak(error)
            if not error.said:
                with suppress(OSError):
                    os.write(2, "".join(f"{part}\n" for part in (error, *getattr(error, "__notes__", ()))).encode())
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(error.exit_status)


def _of_lost_peer(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is that of an operation of several processes."""
    while error is not None:
        if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in LOST_PEER):
            return True
        error = error.__cause__ or error.__context__
    return False
