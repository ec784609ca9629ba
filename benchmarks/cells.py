"""Ten applications × three methods on real data, each cell a run of minutes: does every cell learn more than a guess?

    python benchmarks/cells.py DATA_FOLDER OUTPUT_FOLDER [--only "sentiment analysis" translation …] [--table]

The recipes lie in `cells/`; their paths start at the output folder, where `data/` gets the first rows of each split.
Each application's `fine-tuning` cell trains on a source domain. That model is the teacher of the `distillation` cell
(a student of fewer layers, on the same rows) and the source model of the `cross-domain` cell (another data set, or the
same where there is one alone). A finished run is skipped and a stopped one goes on, so the command can be called again.
The last part prints a table from the runs' results alone: the metric on the test rows with its 95 % interval, a trivial
answer's beside it, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data_sets
import torch
import transformers
from ruamel.yaml import YAML

import keeltune as kt
from keeltune import recipe
from keeltune.cli import demo
from keeltune.data import reading
from keeltune.data.dataset import Row
from keeltune.data.sources import DataSource
from keeltune.evaluation.scores import score
from keeltune.runs import opened_model, run_folder
from keeltune.tasks.common.example import Prediction
from keeltune.tasks.task import Task
from keeltune.utils.progress import Display

Answer = Callable[[Sequence[Row], Sequence[Row]], list[Any]]
RECIPES = Path(__file__).parent / "cells"
DECODER = "data/minilm-as-decoder"
METHODS = ("fine-tuning", "distillation", "cross-domain")


@dataclass(frozen=True)
class Application:
    """Three rows of the table: their data, cut to so many rows a split, and the trivial answer that they must beat."""

    name: str
    source: str
    target: str
    guess: Answer
    rows: tuple[int, int, int] = (2000, 200, 400)

    def cell(self, method: str) -> str:
        return f"{self.name.replace(' ', '-')}-{method}"


def majority(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    (label, _), *_ = Counter(row.fields["label"] for row in train).most_common(1)
    return [label] * len(test)


def first_words(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    return [" ".join(row.fields["context"].split()[:4]) for row in test]


def frequent_tags(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    """Each word's most frequent tag, O for a word never seen."""
    seen: dict[str, Counter[str]] = {}
    for row in train:
        for word, tag in zip(row.fields["tokens"], row.fields["tags"], strict=True):
            seen.setdefault(word.lower(), Counter())[tag] += 1
    return [[seen[w.lower()].most_common(1)[0][0] if w.lower() in seen else "O" for w in row.fields["tokens"]]
            for row in test]  # fmt: skip


def lead(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    return [row.fields["document"].replace("\n", " ").split(". ")[0] for row in test]


def copied(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    return [row.fields["source"] for row in test]


def constant_caption(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    (caption, _), *_ = Counter(c for row in train for c in row.fields["captions"]).most_common(1)
    return [caption] * len(test)


def frequent_word(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    (text, _), *_ = Counter(row.fields["text"] for row in train).most_common(1)
    return [text] * len(test)


def unigrams(task: Any, train: Sequence[Row], test: Sequence[Row]) -> list[Prediction]:
    """Each token of an answer by how often the training answers have it (and one time more), whatever was asked."""
    answers = [[task.form.answer_ids(task.target(row))[0] for row in rows] for rows in (train, test)]
    counts = Counter(token for answer in answers[0] for token in answer)
    total = counts.total() + len(task.tokenizer)
    losses = [-sum(math.log((counts[token] + 1) / total) for token in answer) for answer in answers[1]]
    return [Prediction("", None, loss, len(a)) for loss, a in zip(losses, answers[1], strict=True)]


def nothing(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    return [""] * len(test)


APPLICATIONS = [
    Application("text classification", "topic-agnews", "topic-agnews", majority),
    Application("sentiment analysis", "sentiment-sst2", "sentiment-airline", majority),
    Application("question answering", "qa-wiki", "qa-reddit", first_words, (1200, 80, 250)),
    Application("semantic role labelling", "srl-ewt", "srl-ewt-reviews", frequent_tags, (3000, 200, 400)),
    Application("summarization", "summ-mtsdialog", "summ-dialogsum", lead, (900, 40, 200)),
    Application("translation", "translation-multi30k-en-de", "translation-multi30k-en-de", copied, (8000, 100, 400)),
    Application("image captioning", "caption-coco", "caption-coco", constant_caption, (68, 13, 34)),
    Application("speech recognition", "asr-fsdd", "asr-fsdd", frequent_word, (1000, 60, 250)),
    Application("summary generation", "summ-email-aeslc", "summ-scitldr", lead, (2000, 60, 250)),
    Application(
        "instruction tuning", "translation-multi30k-en-de", "translation-multi30k-en-de", nothing, (6000, 100, 300)
    ),
]


class Bench:
    """Where data and runs lie, and how a cell is run once."""

    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder.resolve(), out.resolve()

    def files(self, app: Application, name: str) -> dict[str, Path]:
        """The first rows of a data set's splits, beside a copy of its pictures and sounds."""
        place = self.out / "data" / app.name.replace(" ", "-") / name
        place.mkdir(parents=True, exist_ok=True)
        for media in ("images", "audio"):
            if (self.folder / name / media).is_dir() and not (place / media).exists():
                shutil.copytree(self.folder / name / media, place / media)
        made = {}
        for split, count in zip(("train", "validation", "test"), app.rows, strict=True):
            made[split] = place / f"{split}.jsonl"
            if not made[split].is_file():
                rows = data_sets.rows(self.folder / name, split, count)
                asks = app.name == "instruction tuning"
                data_sets.written(made[split], [asked(row) for row in rows] if asks else rows)
        return made

    def run(self, app: Application, method: str) -> None:
        """Trains the cell, unless it is finished."""
        for name in {app.source, app.target}:
            self.files(app, name)
        folder = self.out / app.cell(method)
        if not run_folder.finished(folder):
            print(f"… {folder.name}", flush=True)
            values = YAML(typ="safe").load((RECIPES / f"{folder.name}.yaml").read_text("utf-8"))
            values["model"] = at_hand(values["model"])
            if values["model"] == DECODER:
                as_decoder(self.out / DECODER)
            kt.train(recipe.from_dict(values, self.out), resume=folder.is_dir(), display=Display(quiet=True))

    def guess(self, app: Application, method: str) -> tuple[str, float, list[float]]:
        """The trivial answer's score on the cell's test rows: (metric, value, interval)."""
        opened = opened_model.open_model(self.out / app.cell(method), None)
        files = self.files(app, app.target if method == "cross-domain" else app.source)
        train, test = (reading.read(DataSource(str(files[s])), opened.columns, {})[0] for s in ("train", "test"))
        name = opened.task.metrics[0]
        answers = [Prediction(value, None, 0.0, 1.0) for value in app.guess(train, test)]
        if name == "loss":  # no word of an answer is right by chance: what counts is how likely each is
            answers = unigrams(opened.task, train, test)
        scores = score(opened.task, answers, test)
        return name, scores.metrics[name], list(scores.intervals[name])


def as_decoder(folder: Path) -> None:
    """MiniLM's weights in a decoder, which reads to the left alone: the nearest to a pretrained decoder at hand."""
    if not (folder / "config.json").is_file():
        source = demo.encoder_path()
        model = transformers.AutoModelForCausalLM.from_pretrained(source, is_decoder=True, dtype=torch.float32)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def at_hand(model: Any) -> Any:
    """The recipe's model, MiniLM's hub id replaced by the folder that comes with the extra `demo`, also inside it."""
    if isinstance(model, dict):
        return {name: at_hand(value) for name, value in model.items()}
    return demo.encoder_path() if model == demo.HUB_MODEL else model


def asked(row: dict[str, str]) -> dict[str, str]:
    """A pair of sentences as an instruction and its answer."""
    return {"prompt": f"Translate into German: {row['source']}\n", "completion": row["target"]}


def whole(folder: Path) -> float:
    """Seconds from a run's last start, when its models are loaded, to its result: training, scoring and saving."""
    return (folder / "result.json").stat().st_mtime - (folder / "recipe.yaml").stat().st_mtime


def table(bench: Bench, applications: Sequence[Application]) -> None:
    print("| application | method | metric | trivial answer | test [95 %] | apart | training | whole, s | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- | ---: | ---: | ---: |")
    for app in applications:
        for method in METHODS:
            if not run_folder.finished(bench.out / app.cell(method)):
                continue
            result = json.loads((bench.out / app.cell(method) / "result.json").read_text("utf-8"))
            name, value, (low, high) = bench.guess(app, method)
            after, interval = result["metrics"]["test"][name], result["intervals"]["test"][name]
            better = interval[1] < low if name in Task.lower_is_better else interval[0] > high
            print(
                f"| {app.name} | {method} | {name} | {value:.3g} [{low:.3g}, {high:.3g}] | {after:.3g} "
                f"[{interval[0]:.3g}, {interval[1]:.3g}] | {'yes' if better else 'no'} | "
                f"{result['training']['seconds']:.0f} | {whole(bench.out / app.cell(method)):.0f} | "
                f"{result['training']['peak_memory_bytes'] / 2**30:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(a.name for a in APPLICATIONS))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    chosen = [a for a in APPLICATIONS if not options.only or a.name in options.only]
    for app in () if options.table else chosen:
        for method in METHODS:
            bench.run(app, method)
    table(bench, chosen)


if __name__ == "__main__":
    main()
