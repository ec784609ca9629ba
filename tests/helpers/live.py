"""`keeltune watch` in this process, and a run's folder written by hand, as a training would leave it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keeltune.cli.watch import pages
from keeltune.runs.output_folder import PROGRESS
from keeltune.utils.files import write_atomically
from keeltune.utils.local_server import LocalServer

RECIPE = (
    "task: sentiment-analysis\nmethod: distillation\nmodel: base\nreference: base\noutput: .\ndata: {train: t.jsonl}\n"
)


@contextmanager
def watching(folder: Path, language: str | None = None) -> Iterator[str]:
    """Within: the page of a run folder is served; its address."""
    server = LocalServer(pages(folder, language))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()


def write_run(folder: Path, step: int = 40, steps: int = 160, **changes) -> None:
    """A run that came to a step: its recipe, its log with an evaluation each ten steps, how far it is.

    Whole or not at all, as a training writes them: a page may ask while this writes.
    """
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "recipe.yaml", RECIPE.encode())
    log = [
        {"step": n, "epoch": n / 40, "loss": 2 / n, "cross_entropy": 1.5 / n, "divergence": 0.5 / n,
         "learning_rate": 1e-5 * (steps - n) / steps}
        for n in range(1, step + 1)
    ]  # fmt: skip
    log += [{"step": n, "eval_accuracy": 1 - 1 / n, "eval_loss": 3 / n} for n in range(10, step + 1, 10)]
    write_atomically(folder / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in log).encode())
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen" * 3
    rows = [
        {"row": n, "inputs": {"text": f"<b>{long}</b> 航班晚点三小时"}, "prediction": "positive", "gold": "negative",
         "score": 0.0}
        for n in range(6)
    ]  # fmt: skip
    told = {
        "step": step, "steps": steps, "first": 0, "elapsed": 20.0, "training": True, "written": time.time(),
        "memory": {"now": 2**30, "peak": 2**31}, "held": [[1, 2**29], [step, 2**30]],
        "samples": {"step": step, "rows": rows},
    }  # fmt: skip
    write_atomically(folder / PROGRESS, json.dumps(told | changes).encode())
