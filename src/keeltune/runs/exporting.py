"""`kt.export`: a finished run's model for another runtime, with the proof that it answers as the run's own.

verified   the model is held against its manifest, as whenever it is opened
read       rows of the run that it was not trained on, as its recipe reads them: its test rows, else its validation rows
written    the graph, what is read beside it, a card with a program, in one folder
proved     both models on those rows (`exporters/parity.py`); `export.json` says what came of it
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeltune import recipe
from keeltune.data.dataset import Row, spread
from keeltune.exporters import (
    cached_graphs,
    coverage,
    decoding,
    folder,
    greedy,
    int8,
    onnx,
    opening,
    parity,
    written_parity,
)
from keeltune.exporters.card import card
from keeltune.models import libraries
from keeltune.runs import run_folder
from keeltune.runs.opened_model import OpenedModel, open_model
from keeltune.runs.output_folder import EXPORTS, refuse_unwritable
from keeltune.runs.run_folder import Run
from keeltune.tasks.common.example import Example
from keeltune.tasks.task import Task
from keeltune.training.preparation.problem_log import ProblemLog
from keeltune.training.preparation.row_encoding import encode_rows
from keeltune.training.preparation.splits import SplitReader, sources_of
from keeltune.utils.errors import Problem, UnequalExport, UserError
from keeltune.utils.json_lines import read_lines
from keeltune.utils.progress import Display
from keeltune.utils.version import __version__

SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Exported:
    """A folder with an exported model, and the content of its `export.json`."""

    folder: Path
    proof: dict[str, Any]


def export(
    run: str | Path | Run,
    to: str = "onnx",
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    display: Display | None = None,
) -> Exported:
    """Writes the model of a finished run for another runtime, and proves on rows of the run that it answers alike.

    Args:
        run: its folder; of several seeds the best one's model is exported.
        to: `onnx`, float32; `int8`, the same graph with weights of 8 bits.
        output: a new folder; None: `export/TO` in the run's. overwrite: whether an earlier export there is replaced.
    Raises: UserError: no finished run, a model that is not covered, rows that are gone; StateRefused: a model that is
        not what the run wrote; UnequalExport: it does not answer alike. The folder is there then too, and says so.
    """
    display = display or Display()
    coverage.refuse_format(to)
    whole, part = run_folder.required(run)
    place = Path(output) if output is not None else whole / EXPORTS / to
    folder.refuse_used(place, overwrite=overwrite)
    refuse_unwritable(place)
    opened = open_model(part.folder, None)
    coverage.refuse_uncovered(opened.task, part.result["task"], opened.model.config, str(part.model))
    if coverage.writes_by_token(opened.task, opened.model.config):
        decoding.refuse_settings(opened.model.generation_config, str(part.model))
    split, rows, encoded = _material(part, opened)
    model = opened.model.to("cpu").float().eval()
    display.say(f"writing the graph of {part.model} …")

    def write(staging: Path) -> tuple[Mapping[str, Any], str]:
        _write_graphs(opened, model, encoded, staging, to, str(part.model))
        display.say(f"comparing it with torch on {len(rows)} {split} rows …")
        stored = getattr(model, "generation_config", None)
        graph = opening.graph_of(staging, opened.task, model.config, to, stored=stored, threads=1)
        proved = written_parity if opened.task.generates else parity
        measure = proved.measured(opened.task, model, graph, encoded, rows, opened.clusters)
        if parity.is_hollow(measure):
            display.say("warning: the run's own model answers every row alike, or none right: this proves little")
        facts = _facts(part, staging, to, split, measure) | _lengths(opened.task)
        return facts, card(opened.task, rows, facts)

    exported = Exported(place, folder.write_folder(part.model, place, write))
    if not exported.proof["equal"]:
        raise UnequalExport(f"{place}: {'; '.join(exported.proof['faults'])}", exported)
    return exported


def _material(run: Run, opened: OpenedModel) -> tuple[str, Sequence[Row], list[list[Example]]]:
    """The split, rows and examples on which the run was scored, as many as are compared.

    They are known by their keys, wherever they lie: validation rows may be a share of the training file.
    """
    spec, task = recipe.load(run.folder / "recipe.yaml"), opened.task
    for split in SPLITS:
        file = run.folder / "predictions" / f"{split}.jsonl"
        if not file.is_file():
            continue
        keys = {line["key"] for line in read_lines(file)}
        sources = sources_of(spec)
        log = ProblemLog(skips_rows=True)
        read = SplitReader(spec, type(task), opened.columns, log)(split, sources[split] or sources["train"])
        if log.errors:
            raise UserError(log.errors)
        known = spread([row for row in read if row.key in keys], written_parity.ROWS if task.generates else parity.ROWS)
        taken, encoded, _ = encode_rows(task, known, task.encode_scored)
        if taken:
            task.listen(opened.model, encoded, opened.device)
            return split, taken, [task.encode_scored(row) for row in taken] if task.reads == "sound" else encoded
        found = f"none of the {len(keys)} {split} rows that the run was scored on"
        raise UserError(Problem(str(run.folder / "recipe.yaml"), f"data.{split}", found, "the rows as they were",
                                "put the file back"))  # fmt: skip
    expected = "test or validation rows: a file is proved on rows that the model was not trained on"
    raise UserError(Problem(str(run.folder), "data", "a run without either", expected, "train with data.validation"))


def _write_graphs(
    opened: OpenedModel, model: Any, encoded: Sequence[Sequence[Example]], staging: Path, to: str, where: str
) -> None:
    """The graphs; the longest row and the shortest one show torch what changes from row to row."""
    by_length = sorted((example for row in encoded for example in row), key=lambda example: example.length)
    inputs = opened.task.collate([by_length[-1], by_length[0]])["inputs"]
    if coverage.writes_by_token(opened.task, model.config):
        read = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        cached_graphs.write_graphs(model, read, staging, where)
        shutil.copyfile(greedy.__file__, staging / Path(greedy.__file__).name)
    else:
        onnx.write_onnx(model, inputs, staging / onnx.FILE, where)
    for graph in sorted(staging.glob("*.onnx")) if to == "int8" else ():
        whole = graph.with_name(f"float32-{graph.name}")
        graph.rename(whole)
        int8.write_int8(whole, graph)
        for file in (whole, graph.with_name(f"{graph.name}.data")):
            file.unlink(missing_ok=True)


def _lengths(task: Task) -> dict[str, Any]:
    """What is cut of a row."""
    settings = task.settings
    cut = {"target_max_length": settings.target_max_length} if task.generates else {}
    return {"max_length": settings.max_length, **cut}


def _facts(run: Run, staging: Path, to: str, split: str, measure: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `export.json` but its files and its digest."""
    faults = parity.faults(measure, to)
    tolerance: dict[str, float] = (
        {"logits": parity.LOGITS, "predictions": 1.0} if to == "onnx" else {"loss": parity.LOSS}
    )
    return {
        "keeltune": __version__,
        "task": run.result["task"],
        "to": to,
        "equal": not faults,
        "faults": faults,
        "tolerance": tolerance,
        "split": split,
        "graphs": sorted(file.name for file in staging.glob("*.onnx")),
        **measure,
        "threads": 1,
        "bytes": {"torch": _size(run.model, "*.safetensors"), "exported": _size(staging, "*.onnx*")},
        "model": {name: told for name, told in (run.result["digests"] or {"files": {}})["files"].items()
                  if name.endswith(".safetensors") and name.startswith("model/")},
        "environment": {
            "processor": platform.machine(),
            **{name: libraries.version_of(name) for name in ("torch", "transformers", *coverage.LIBRARIES)},
        },
    }  # fmt: skip


def _size(place: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in place.glob(pattern))
