"""Runs a case as a user would, in this process, and holds its message against the contract of every refusal."""

from __future__ import annotations

import json
import re
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from keeltune.utils import http_client
from tests.bad_inputs.case import Case
from tests.bad_inputs.limits import SECONDS, bounded, unprintable
from tests.bad_inputs.rows import ROWS, beside, json_lines
from tests.helpers.command import keeltune
from tests.helpers.families import family_of

ARCHITECTURES = {"image-captioning": "vit gpt2", "speech-recognition": "wav2vec2"}
SECRET = "sk-canary-5c1e88"
"""Is in the environment as the key of the teacher's server, and in no message."""


PLACE = re.compile(r"recipe\.yaml|^override |^the call|^this machine|^https?://|/")
"""How a problem's first line begins: the recipe with its line, a change on the command line, a file, a server."""


@dataclass
class Campaign:
    """The small models, each made when it is first wanted."""

    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def model(self, task: str) -> Path:
        task = {"text-classification": "sentiment-analysis", "summarization": "translation"}.get(task, task)
        if task not in self.made:
            family, folder = family_of(task), self.folder / task
            family.save(folder, ARCHITECTURES.get(task, family.architectures[0]), 0)
            self.made[task] = folder
        return self.made[task]

    def lay_out(self, case: Case, folder: Path) -> None:
        """What the user of this case has in a folder: data, a recipe, perhaps a model."""
        files = {"train.jsonl": json_lines(ROWS[case.task]), **beside(case.task), **case.files}
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if case.model is not None:
            shutil.copytree(self.model(case.task), folder / "student")
            case.model(folder)
        if "recipe.yaml" not in files:
            text = json.dumps(self.recipe(case)) if case.recipe is None else case.recipe
            (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        (folder / "empty").mkdir()
        if "encoder" in (case.recipe or ""):
            (folder / "encoder").symlink_to(self.model(case.task))

    def recipe(self, case: Case) -> dict:
        return {
            "task": case.task,
            "method": "fine-tuning",
            "model": "student" if case.model is not None else str(self.model(case.task)),
            "data": {"train": "train.jsonl"},
            "training": {"max_steps": 1, "batch_size": 1, "precision": "fp32"},
            "output": "run",
            **({"generation": {"max_new_tokens": 4}} if "generation" in family_of(case.task).fields else {}),
        }

    def run(self, case: Case, folder: Path, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        """Runs the case and asserts how it ends."""
        self.lay_out(case, folder)
        patch.chdir(folder)
        patch.setenv(http_client.KEY, SECRET)
        hasty = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic, time=time.time)
        patch.setattr(http_client, "time", hasty)  # between two tries
        patch.setitem(http_client.Endpoint.__init__.__kwdefaults__, "timeout", 0.4)
        before = set(folder.rglob("*"))
        with self.server(case) as url:
            model = str(self.model(case.task))
            captured.readouterr()
            overrides = [change.replace("URL", url).replace("=MODEL", f"={model}") for change in case.overrides]
            started = processor_time()
            with bounded():
                status = keeltune(patch, *case.verb.split(), "recipe.yaml", *overrides)
            seconds = processor_time() - started
        said = captured.readouterr()
        new = {path.relative_to(folder).parts[0] for path in {*folder.rglob("*")} - before}
        if case.valid:
            assert status == 0, said.err
        else:
            assert_refused(case, status, said.err, said.out, new)
        assert seconds < SECONDS, f"{seconds:.1f} s"

    @contextmanager
    def server(self, case: Case) -> Iterator[str]:
        """The address of a teacher's server that does what the case says; "" where it has none."""
        if not case.server:
            yield ""
            return
        from tests.helpers.served_teacher import Handler

        source = self.model(case.task)
        tokenizer = AutoTokenizer.from_pretrained(source)
        handler = type("Serving", (Handler,), {
            "model": AutoModelForCausalLM.from_pretrained(source).eval(), "known": {},
            "spell": staticmethod(lambda i: tokenizer.decode([i])),
        })  # fmt: skip
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads, server.block_on_close = True, False
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/{case.server}/{time.monotonic_ns()}"
            finally:
                server.shutdown()
                thread.join()


def processor_time() -> float:
    """Seconds that this process and those it started have computed: what a busy machine does not lengthen."""
    return sum(sum(resource.getrusage(of)[:2]) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def assert_refused(case: Case, status: int, message: str, output: str, new: set[str]) -> None:
    """The contract of every refusal: exit status; each problem with its place, what was found, what was expected and how
    to mend it; nothing that a terminal would obey; no secret; no traceback; and nothing begun.
    """
    assert status == case.status, message
    for needle in case.needles:
        assert needle in message, f"{needle!r} is not in\n{message}"
    assert "Traceback" not in message
    assert SECRET not in message + output
    assert not unprintable(message), repr(message)
    assert not new - {".cache"}, f"was begun: {new}"
    if case.status != 2:
        return
    blocks = message[message.index("error: ") :].removeprefix("error: ").split("\nerror: ")
    heads = [block.splitlines()[0] for block in blocks]
    once = heads if case.kind[0] == "R" else blocks  # one problem a field of a recipe; elsewhere none twice
    assert len(set(once)) == len(once), f"said twice:\n{message}"
    for head, block in zip(heads, blocks, strict=True):
        assert PLACE.search(head), f"no place in\n{block}"
        for part in ("found:    ", "expected: ", "fix:      "):
            _, _, rest = block.partition(f"\n    {part}")
            assert rest.split("\n")[0].strip(), f"no {part} in\n{block}"
        assert len(block) < 2500, f"a message of {len(block)} characters:\n{block}"
