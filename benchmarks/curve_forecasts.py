"""Does `keeltune curve` foretell what twice the rows bring? Sixteen forecasts beside the scores that then came.

    python benchmarks/curve_forecasts.py DATA OUT [--only sst2 airline agnews clinc] [--table]

Each data set's curve is trained as the command trains it, on nested shares of 800 rows, each for as many steps; from
four shares in a row, such as 50, 100, 200 and 400 rows, the score at twice the last one is foretold, and held against
that of the run on as many rows, on the same test rows. Four forecasts a data set: at 100, 200, 400 and 800 rows. The
models are two of MiniLM's layers, the embeddings frozen, and each share has one draw of rows, so that all 32 trainings
take some ten minutes of one core. What was found goes to `curve_forecasts.json` beside this file. A finished run is
skipped and a stopped one goes on.

What came was measured on as many test rows as the points were, so that it has their error too: a band as narrow as the
fit alone would miss it. A band is as wide as it says; beside it stands how wide one is that is nothing but the test
rows' error at the score that came.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import data_sets

from keeltune import recipe
from keeltune.advisor import extrapolation, learning_curve
from keeltune.cli import demo
from keeltune.utils.progress import Display

ROWS, TEST_ROWS, STEPS = 800, 600, 60
SHARES = tuple(2.0**-k for k in range(7, -1, -1))
POINTS = 4
SETS: dict[str, dict[str, Any]] = {
    "sst2": {"data": "sentiment-sst2", "task": "sentiment-analysis"},
    "airline": {"data": "sentiment-airline", "task": "sentiment-analysis"},
    "agnews": {"data": "topic-agnews", "task": "text-classification"},
    "clinc": {"data": "intent-clinc150", "task": "text-classification", "label": "domain"},
}
FIGURES = Path(__file__).with_suffix(".json")


def curve(name: str, data: Path, out: Path, draws: int) -> list[learning_curve.Trained]:
    """The runs on all shares of a data set's rows, `draws` of each share below the whole."""
    spec = SETS[name]
    files = {}
    for split, count in (("train", ROWS), ("test", TEST_ROWS)):
        rows = data_sets.rows(data / spec["data"], split)
        random.Random(0).shuffle(rows)
        kept = [{"text": row["text"], "label": row[spec.get("label", "label")]} for row in rows[:count]]
        files[split] = data_sets.written(out / "data" / f"{name}-{split}.jsonl", kept)
    training = {"max_steps": STEPS, "batch_size": 16, "learning_rate": 3e-4, "precision": "bf16",
                "regularizers": {"freeze_embeddings": True}}  # fmt: skip
    model = {"from": demo.encoder_path(), "layers": [0, 5]}
    values = {"task": spec["task"], "method": "fine-tuning", "model": model, "data": {**files, "validation": None},
              "max_length": 48, "training": training, "output": name}  # fmt: skip
    made = recipe.from_dict(values, out)
    return learning_curve.train_shares(made, SHARES, draws, display=Display())


def forecasts(name: str, runs: list[learning_curve.Trained]) -> list[dict[str, Any]]:
    """What four shares in a row foretell for twice as many rows, and what came: the last of them with one draw, as the
    whole has in a curve."""
    found = []
    for last in range(POINTS, len(SHARES)):
        known = SHARES[last - POINTS : last]
        points = [one for one in runs if one.share in known and (one.share < known[-1] or one.draw == 0)]
        card = extrapolation.extrapolate(points)
        came = next(one for one in runs if one.share == SHARES[last]).run.result
        value, (low, high) = came["metrics"]["test"][card["metric"]], came["intervals"]["test"][card["metric"]]
        if card["twice"] is None:
            raise SystemExit(f"{name}: {card['verdict']}")
        twice = card["twice"]
        found.append({
            "data": name, "metric": card["metric"], "rows": twice["rows"], "points": [
                [point["rows"], point["value"]] for point in card["points"]],
            "forecast": twice["value"], "band": twice["interval"], "came": value,
            "inside": twice["interval"][0] <= value <= twice["interval"][1],
            "width": twice["interval"][1] - twice["interval"][0], "width_of_test_rows": high - low,
            "gain": twice["gain"], "gain_band": twice["gain_interval"], "gained": value - card["points"][-1]["value"],
        })  # fmt: skip
    return found


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| data | rows | forecast | band | came | | width | of the test rows alone |",
        "| --- | --: | --: | --- | --: | --- | --: | --: |",
    ]
    for one in found:
        low, high = one["band"]
        inside = "inside" if one["inside"] else "**outside**"
        forecast = f"| {one['data']} | {one['rows']} | {one['forecast']:.3f} | {low:.3f} to {high:.3f} "
        lines.append(
            f"{forecast}| {one['came']:.3f} | {inside} | {one['width']:.3f} | {one['width_of_test_rows']:.3f} |"
        )
    return "\n".join([*lines, "", f"{sum(one['inside'] for one in found)} of {len(found)} inside"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--draws", type=int, default=1, help="of each share below the whole")
    parser.add_argument("--table", action="store_true", help="print the table of what was found before")
    options = parser.parse_args()
    if not options.table:
        for name in options.only:
            found = forecasts(name, curve(name, options.data.resolve(), options.out.resolve(), options.draws))
            others = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else []
            kept = sorted([*(one for one in others if one["data"] != name), *found], key=lambda one: one["data"])
            FIGURES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(FIGURES.read_text("utf-8"))))


if __name__ == "__main__":
    main()
