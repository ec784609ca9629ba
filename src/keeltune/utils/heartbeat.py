"""What the processes that train together say of themselves to each other, once a second.

Each writes a record into the store of the group (`torch.distributed.TCPStore`, whose address the launcher gives), over
a connection of its own, and reads the others'. A thread does it: the store may not answer. What the records mean is
judged elsewhere (`rank_watch.py`).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from keeltune.utils.process_state import ProcessName, host, this_process

ROUND = 1.0
"""Seconds between two records."""

WAITING = ("_engine_run_backward", "all_reduce", "all_gather", "all_gather_object", "broadcast_object_list", "barrier")
"""Functions of torch in which a process waits for the others."""


class Store(Protocol):
    """What is used of `torch.distributed.TCPStore`."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...

    def add(self, key: str, amount: int) -> int: ...


@dataclass(frozen=True)
class Verdict:
    """What ends all processes. `raised`: an error of one of them; else it was lost, and the others say so.

    `status`: the exit status of all.
    """

    rank: int
    status: int
    text: str
    raised: bool


@dataclass
class Record:
    """What a process says of itself.

    `mark`: how many collective operations it has begun; `waiting`: it is in one, or in a backward pass; `place`: where
    it is, as file:line; `left`: whether it has ended its part; `verdict`: what it knows to be the end of all.
    """

    host: str
    process: ProcessName
    beat: int = 0
    mark: int = 0
    waiting: bool = False
    place: str = ""
    left: bool = False
    verdict: Verdict | None = None

    @classmethod
    def of(cls, text: bytes) -> Record:
        values = json.loads(text)
        verdict = values["verdict"] and Verdict(**values["verdict"])
        return cls(**{**values, "process": ProcessName(**values["process"]), "verdict": verdict})

    @property
    def name(self) -> str:
        return f"process {self.process.pid} on {self.host}"


def own_record() -> Record:
    return Record(host(), this_process())


@dataclass
class Heartbeat:
    """The exchange of records. `prefix`: of this group's keys in the store.

    `others`: the newest record of each other rank. `rounds`: how many exchanges have ended; `lost`: the store is gone;
    `fault`: what ended the thread, where it is a bug of ours.
    """

    rank: int
    world: int
    store: Store
    prefix: str
    own: Record = field(default_factory=own_record)
    others: dict[int, Record] = field(default_factory=dict)
    rounds: int = 0
    lost: bool = False
    fault: BaseException | None = None

    def __post_init__(self) -> None:
        self.of_thread = threading.get_ident()
        self.hurry = threading.Event()
        self.done = threading.Event()
        self.write()

    def meet(self) -> None:
        """Waits for a first record of each other process: one that is lost from now on is known by its number.

        Raises: RuntimeError (torch's DistStoreError): one never came, for as long as the store waits.
        """
        for rank in (rank for rank in range(self.world) if rank != self.rank):
            self.others[rank] = Record.of(self.store.get(self._key(rank)))

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def first_to_say(self) -> bool:
        """Whether no other process has asked this yet: of several that end alike, one shows its message."""
        return self.store.add(f"{self.prefix}/said", 1) == 1

    def exchange(self) -> None:
        """Writes this process's record and reads those of the others that there are."""
        self.write()
        for rank in (rank for rank in range(self.world) if rank != self.rank):
            if rank in self.others or self.store.check([self._key(rank)]):
                self.others[rank] = Record.of(self.store.get(self._key(rank)))
        self.rounds += 1

    def write(self) -> None:
        self.own.beat += 1
        self.own.place, self.own.waiting = _whereabouts(self.of_thread)
        self.store.set(self._key(self.rank), json.dumps(asdict(self.own)))

    def _key(self, rank: int) -> str:
        return f"{self.prefix}/{rank}"

    def _run(self) -> None:
        try:
            while not self.done.is_set():
                self.exchange()
                self.hurry.wait(ROUND)
                if self.hurry.is_set():
                    self.done.wait(ROUND / 20)
        except RuntimeError:  # torch's: the connection is lost, and whoever held the store with it
            self.lost = True
        except BaseException as error:
            self.fault = error


def _whereabouts(thread: int) -> tuple[str, bool]:
    """Where a thread is, as file:line of ours, and whether it waits there for the other processes."""
    frame, place, waiting = sys._current_frames().get(thread), "", False
    while frame is not None:
        waiting |= frame.f_code.co_name in WAITING
        if not place and frame.f_code.co_filename != __file__ and "keeltune" in frame.f_code.co_filename:
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return place, waiting


def store_connection(patience: float) -> Store:
    """A new connection to the group's store; `patience`: seconds in which there must be one.

    Raises: RuntimeError (torch's DistNetworkError, DistStoreError): there is none.
    """
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store: Any = TCPStore(address, port, None, False, timedelta(seconds=patience), wait_for_workers=False)
    return store
