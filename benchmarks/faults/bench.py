"""Where trials run: a server of runs, folders of their own, and what the whole run of each workload ended as."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.faults import outcome, shim
from tests.faults.server import Ended, Server
from tests.faults.workloads import ALL

from keeltune.utils import manifest

Plans = Sequence[dict[str, Any]]

SEEN = 77
"""The status of a run that was ended when what is asked of it was seen."""


@dataclass(frozen=True)
class Trial:
    """`run(bench)` returns what was wrong, or nothing."""

    family: str
    name: str
    run: Callable[[Bench], str]


class Bench:
    """Runs trials below `folder`; `library`: the shim, where it is built already."""

    def __init__(self, folder: Path, library: Path | None = None):
        self.library = library
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.depth = folder.resolve(), 0
        self.made: dict[str, Path] = {}
        self.ends: dict[str, dict[str, Any]] = {}
        self.known: dict[str, str] = {}

    @cached_property
    def server(self) -> Server:
        return Server(self.library or shim.build(self.folder), errors=self.folder / "server.txt")

    def close(self) -> None:
        if "server" in self.__dict__:
            self.server.__exit__()

    # The runs

    def state(self, name: str, moment: str, number: int = 1) -> Path:
        """The output folder of a workload that was killed at a moment; it is copied, never changed."""
        kept = self.folder / f"state {name} {moment} {number}"
        if not kept.exists():
            with self.fresh(name) as folder:
                self.train(folder, name, plans=[{"at": [moment, number], "do": "SIGKILL"}])
                shutil.copytree(folder / "out", kept)
        return kept

    def inputs(self, name: str) -> Path:
        """The folder of a workload's recipe, models and rows, made once."""
        if name not in self.made:
            folder = self.folder / f"inputs-{len(self.made)}"
            if folder.exists():
                shutil.rmtree(folder)
            self.server.call("tests.faults.workloads:make", name, str(folder))
            self.made[name] = folder
        return self.made[name]

    @contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """A copy of these inputs for one trial, always at the same place, as some files name it."""
        folder = self.folder / f"trial-{self.depth}"
        if not self.depth and name not in self.ends:
            self.whole(name)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.inputs(name), folder)
        self.depth += 1
        try:
            yield folder
        finally:
            self.depth -= 1

    def train(self, folder: Path, name: str, *options: str, plans: Plans = (), **how: Any) -> Ended:
        """`keeltune train recipe.yaml options` with a plan for each rank; those that are missing do nothing."""
        ranks = [*plans, *({} for _ in range(ALL[name].ranks - len(plans)))]
        return self.server.run(folder, ["train", "recipe.yaml", *options], plans=ranks, **how)

    def whole(self, name: str) -> dict[str, Any]:
        """`facts` of the run that nothing happened to; `events`: the moments that it passed, of the first rank."""
        if name not in self.ends:
            self.ends[name] = {}  # or it would be asked for again
            with self.fresh(name) as folder:
                ended = self.train(folder, name, plans=[{"events": str(folder / "events")}])
                if any(ended.statuses):
                    raise RuntimeError(f"{name}: {ended.text[-2000:]}")
                lines = [line.rsplit(" ", 1) for line in (folder / "events").read_text().splitlines()]
                events = [[moment, int(number)] for moment, number in lines]
                self.ends[name] = {"facts": outcome.facts(folder / "out"), "events": events, "seconds": ended.seconds}
        return self.ends[name]

    # What must be so

    def same_end(self, folder: Path, name: str) -> str:
        """What differs from the whole run in a folder that holds a finished one."""
        return "; ".join(outcome.differing(self.whole(name)["facts"], outcome.facts(folder / "out"))[:4])

    def goes_on(self, folder: Path, name: str, plans: Plans = ()) -> str:
        """What is wrong with going on: an exit status, words, processes that are left, or another end."""
        ended = self.train(folder, name, "--resume", plans=plans)
        return quiet(ended, 0) or self.same_end(folder, name)

    def would_go_on_from(self, state: Path, name: str) -> str:
        """What is wrong with a copy of an output folder, as far as the next start says before it builds a model: none
        of its checkpoints is broken, and it goes on from one. Much cheaper than to go on; of equal states one is tried.
        """
        digest = f"would {name} {digest_of(state)}"
        if digest not in self.known:
            with self.fresh(name) as folder:
                shutil.copytree(state, folder / "out")
                plan = {"at": ["build", 1], "do": f"exit {SEEN}"}
                wrong = self.unsound(folder)
                ended = self.train(folder, name, "--resume", plans=[plan])
                said = "" if "going on from checkpoint-" in ended.text else "it starts anew"
                self.known[digest] = wrong or quiet(ended, SEEN) or said
        return self.known[digest]

    def goes_on_from(self, state: Path, name: str) -> str:
        """The same from a copy of an output folder as it was at some moment; of equal ones one is tried."""
        digest = f"{name} {digest_of(state)}"
        if digest not in self.known:
            with self.fresh(name) as folder:
                shutil.copytree(state, folder / "out")
                self.known[digest] = self.unsound(folder) or self.goes_on(folder, name)
        return self.known[digest]

    @cached_property
    def sealed(self) -> bool:
        """Whether checkpoints have manifests; those of the first versions had none."""
        with self.fresh("few steps") as folder:
            self.train(folder, "few steps", plans=[{"at": ["conclude", 1], "do": "SIGKILL"}])
            return any((folder / "out" / "checkpoints").glob(f"checkpoint-*/{manifest.MANIFEST}"))

    def unsound(self, folder: Path) -> str:
        """The checkpoints of a run that have the name of a whole one and are not as they were written."""
        wrong = []
        for checkpoint in (folder / "out" / "checkpoints").glob("checkpoint-*") if self.sealed else ():
            try:
                manifest.verified(checkpoint)
            except manifest.NotAsWrittenError as error:
                wrong.append(f"{checkpoint.name}: {error}")
        return "; ".join(wrong)


def quiet(ended: Ended, *statuses: int) -> str:
    """What is wrong with how a run ended: another status than one of these, a traceback, or what it left running."""
    wrong = []
    if any(status not in statuses for status in ended.statuses):
        wrong.append(f"exit {ended.statuses} for {statuses}: {ended.last_line[:300]}")
    if "Traceback" in ended.text:
        last = [line for line in ended.text.splitlines() if line and not line.startswith(" ")]
        wrong.append(f"a traceback: {(last or [''])[-1][:200]}")
    if ended.left:
        wrong.append(f"left running: {ended.left}")
    return "; ".join(wrong)


def digest_of(folder: Path) -> str:
    """Of the names and contents of all that lies in a folder."""
    found = [
        [str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""]
        for path in sorted(folder.rglob("*"))
    ]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
