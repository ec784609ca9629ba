"""Which runs lie in a folder, with their scores, and how often their test rows were scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from keeltune.evaluation.test_set_looks import looks_at_test
from keeltune.recipe import load, parse
from keeltune.runs.stored_result import read_result
from keeltune.utils.errors import Problem, UserError

SPLITS = ("test", "validation")


def runs(folder: Path) -> list[dict[str, Any]]:
    """The runs below a folder, newest first; the seeds of a run of several count as one.

    {"folder", "task", "method", "status", "split", "metric", "value", "interval", "seeds", "looks", "finished",
    "identity", "fault"}. `looks` says how often the run's test rows were scored. `identity` is a digest of the recipe,
    its output aside, and of the rows: equal for equal runs. A folder whose `result.json` cannot be read, or has another
    shape, has the status `unreadable`, and `fault` names the file and field.
    Raises: UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            Problem(str(folder), "FOLDER", "no such folder", "a folder with runs in it", "correct the path")
        )
    rows = [_run(path.parent) for path in _results(folder)]
    return sorted(rows, key=lambda run: run["finished"] or "", reverse=True)


def _results(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("result.json")):
        seed = path.parent.name.startswith("seed-") and (path.parent.parent / "recipe.yaml").is_file()
        if not seed and (path.parent / "recipe.yaml").is_file():
            yield path


def _run(folder: Path) -> dict[str, Any]:
    try:
        result, fault = read_result(folder), None
    except UserError as error:
        result, fault = {"status": "unreadable"}, error.problems[0]
    metrics, intervals = result.get("metrics") or {}, result.get("intervals") or {}
    values = {name: _numbers(metrics.get(name)) for name in SPLITS}
    split = next((name for name in SPLITS if values[name]), None)
    metric = next(iter(values[split])) if split else None
    return {
        "folder": str(folder),
        "task": result.get("task"),
        "method": result.get("method"),
        "status": result.get("status"),
        "split": split,
        "metric": metric,
        "value": values[split][metric] if split and metric else None,
        "interval": (intervals.get(split) or {}).get(metric) if split else None,
        "seeds": (result.get("seeds") or {}).get("numbers"),
        "looks": looks_at_test(folder, result),
        "finished": (result.get("environment") or {}).get("finished"),
        "identity": _identity(folder, result),
        "fault": None if fault is None else f"{fault.where} · {fault.field}: {fault.found}, not {fault.expected}",
    }


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float]:
    """The metrics without details, such as those by label."""
    return {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}


def _identity(folder: Path, result: dict[str, Any]) -> str | None:
    """Twelve digits of the SHA-256 of what the run was made of; None where its recipe cannot be read any more."""
    with suppress(Exception):  # a recipe of another version is no reason to hide the other runs
        written = parse(load(folder / "recipe.yaml").dump(), folder=folder)  # its paths absolute, wherever it lies
        recipe = written.model_dump(mode="json", by_alias=True, exclude={"output", "report"})
        rows = {k: v["fingerprint"] for k, v in (result.get("data") or {}).items() if isinstance(v, dict)}
        return hashlib.sha256(json.dumps([recipe, rows], sort_keys=True).encode()).hexdigest()[:12]
    return None
