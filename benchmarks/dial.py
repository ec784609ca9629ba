"""The dial between two domains: what each way of holding the old one saves there, and what it costs in the new one.

    python benchmarks/dial.py DATA_FOLDER OUTPUT_FOLDER [--only text tags questions speech] [--seeds 0 1 2] [--table]

    text        MiniLM on SST-2 -> airline tweets             accuracy
    few         the same, its harder case: 100 tweets, many epochs, a high rate
    tags        MiniLM on PropBank EWT -> its reviews          span F1
    questions   MiniLM on Wikipedia -> Reddit                  F1
    speech      Whisper's architecture on four speakers of FSDD -> the fifth, every speaker once     WER

Each source model is trained once (one a speaker); from it start the arms below, of the same seeds and the same labelled
batches, all to their last step: weights that are kept where the target's validation rows are best would be of another
step in each arm, and the later step forgets more. A finished run is skipped and a stopped one goes on. The tables are
made of the runs' prediction files: an arm against plain fine-tuning, the same draws of rows for both. A row's answers
of all seeds are one cluster, and so are all clips of one adaptation to a speaker: what is drawn again is rows, or
speakers. Changes are oriented so that more is better, in points. Then what the budgets promised, and what they kept on
rows that they had not seen.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data_sets
import numpy as np

from keeltune import recipe
from keeltune.cli import demo
from keeltune.evaluation import scores
from keeltune.runs import opened_model, run_folder
from keeltune.runs.run import train
from keeltune.tasks.task import Task
from keeltune.utils.files import read_lines
from keeltune.utils.progress import Display

CROSS = {"method": "cross-domain"}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"method": "fine-tuning"},
    "weight 0.1": {**CROSS, "objective": {"weight": 0.1}},
    "weight 0.29": {**CROSS, "objective": {"weight": 0.29}},
    "weight 1": {**CROSS, "objective": {"weight": 1.0}},
    "source inputs, weight 1": {**CROSS, "objective": {"anchor_on": "source", "weight": 1.0}},
    "replay": {"method": "fine-tuning"},
    "interpolated": {"method": "fine-tuning", "training": {"interpolate": "recommended"}},
    "a tenth of the rate": {"method": "fine-tuning"},
    "at most 0.02 lost": {**CROSS, "objective": {"weight": {"max_source_drop": 0.02}}},
    "at most 0.05 nats": {**CROSS, "objective": {"weight": {"max_kl": 0.05}}},
}


@dataclass(frozen=True)
class Dial:
    """One pair of domains: folders of the data, and the rows that are taken of each split."""

    task: str
    source: str
    target: str
    rows: dict[str, int]
    source_training: dict[str, Any]
    training: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    speakers: tuple[str, ...] = ()
    start: str = ""
    """The dial whose source model this one starts from, if not its own."""


NEW_WHISPER = {
    "new": {"model_type": "whisper", "d_model": 96, "encoder_layers": 2, "decoder_layers": 1, "num_mel_bins": 40,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
            "max_source_positions": 150, "max_target_positions": 32},
    "tokenizer": {"train": "bpe", "size": 300},
}  # fmt: skip

AT_THE_END = {"every": 1_000_000, "patience": None}

DIALS = {
    "text": Dial("sentiment-analysis", "sentiment-sst2", "sentiment-airline",
                 {"source": 3000, "train": 800, "validation": 300, "control": 500, "test": 1200},
                 {"epochs": 2, "learning_rate": 5e-5}, {"epochs": 4, "learning_rate": 1e-4}),
    "few": Dial("sentiment-analysis", "sentiment-sst2", "sentiment-airline",
                {"source": 3000, "train": 100, "validation": 300, "control": 500, "test": 1200},
                {"epochs": 2, "learning_rate": 5e-5}, {"epochs": 15, "learning_rate": 3e-4}, start="text"),
    "tags": Dial("semantic-role-labeling", "srl-ewt", "srl-ewt-reviews",
                 {"source": 3000, "train": 400, "validation": 200, "control": 400, "test": 500},
                 {"epochs": 3, "learning_rate": 2e-4, "batch_size": 16},
                 {"epochs": 4, "learning_rate": 2e-4, "batch_size": 16}),
    "questions": Dial("question-answering", "qa-wiki", "qa-reddit",
                      {"source": 1200, "train": 300, "validation": 80, "control": 150, "test": 250},
                      {"epochs": 2, "learning_rate": 1e-4, "batch_size": 16},
                      {"epochs": 2, "learning_rate": 1e-4, "batch_size": 16}, {"max_length": 160}),
    "speech": Dial("speech-recognition", "asr-fsdd", "asr-fsdd",
                   {"source": 800, "train": 30, "validation": 50, "control": 120, "test": 200},
                   {"epochs": 25, "learning_rate": 1e-3, "batch_size": 32},
                   {"epochs": 40, "learning_rate": 5e-4, "batch_size": 10}, {"generation": {"max_new_tokens": 8}},
                   ("george", "jackson", "nicolas", "theo", "yweweler")),
}  # fmt: skip


class Bench:
    def __init__(self, folder: Path, out: Path, *, trains: bool = True):
        self.folder, self.out, self.trains = folder.resolve(), out.resolve(), trains

    def run(self, name: str, values: dict[str, Any]) -> Path:
        place = self.out / name
        if self.trains and not run_folder.finished(place):
            print(f"… {name}", flush=True)
            train(
                recipe.from_dict({**values, "output": name}, self.out),
                resume=place.is_dir(),
                display=Display(quiet=True),
            )
        return place

    def files(self, name: str, dial: Dial, speaker: str) -> dict[str, str]:
        """The rows of both domains; of one speaker against the others where there are speakers."""
        place = self.out / "data" / name / speaker
        place.mkdir(parents=True, exist_ok=True)
        if dial.speakers and not (place / "audio").exists():
            shutil.copytree(self.folder / dial.source / "audio", place / "audio")
        made = {}
        for domain, folder in (("source", dial.source), ("target", dial.target)):
            for split in ("train", "validation", "test"):
                rows = data_sets.rows(self.folder / folder, split)
                if speaker:
                    rows = [row for row in rows if (row["speaker"] == speaker) == (domain == "target")]
                named = {"train": "source", "validation": "control"} if domain == "source" else {}
                count = dial.rows[named.get(split, split)]
                file = place / f"{domain}-{split}.jsonl"
                if not file.is_file():
                    data_sets.written(file, rows[:count])
                made[f"{domain}-{split}"] = str(file)
        return made

    def arms(self, name: str, dial: Dial, speaker: str, seeds: Sequence[int]) -> Iterator[tuple[str, int, Path]]:
        """Every arm's run, trained now unless it was before."""
        files = self.files(name, dial, speaker)
        first = f"{name}{'-' + speaker if speaker else ''}"
        model = NEW_WHISPER if dial.speakers else demo.encoder_path()
        data = {split: files[f"source-{split}"] for split in ("train", "validation", "test")}
        common = {"task": dial.task, **dial.more}
        source = {**common, "method": "fine-tuning", "model": model, "data": data, "training": dial.source_training}
        self.run(f"{dial.start or first}-source", source)
        domain = {"validation": files["source-validation"], "test": files["source-test"]}
        for arm, spec in ARMS.items():
            for seed in seeds:
                training = {**dial.training, "seed": seed, **spec.get("training", {})}
                own = dict(domain)
                if arm == "replay":
                    own["train"] = files["source-train"]
                if arm.startswith("source inputs"):
                    own["unlabeled"] = files["source-train"]
                if arm == "a tenth of the rate":
                    training["learning_rate"] = dial.training["learning_rate"] / 10
                if arm != "interpolated":
                    training.setdefault("interpolate", None)
                rows = {split: files[f"target-{split}"] for split in ("train", "validation", "test")}
                values = {
                    **common,
                    **spec,
                    "model": f"{dial.start or first}-source",
                    "data": {**rows, "source": own},
                    "training": training,
                    "evaluation": AT_THE_END,
                }
                place = self.run(f"{first}-{arm.replace(',', '').replace(' ', '-')}-{seed}", values)
                if run_folder.finished(place):
                    yield arm, seed, place


@dataclass
class Runs:
    """One arm's runs: of each adaptation (a speaker, or the only one) one a seed."""

    task: Task
    places: dict[str, list[Path]]

    def table(self, split: str, where: str = "") -> np.ndarray:
        """[rows, K + 2]: the sums of each row over its seeds, the adaptations below one another."""
        return np.concatenate([sum(self._read(p / "predictions" / where / f"{split}.jsonl") for p in places)
                               for places in self.places.values()])  # fmt: skip

    def _read(self, file: Path) -> np.ndarray:
        return scores.table_of(self.task, read_lines(file))

    def clusters(self, split: str) -> np.ndarray | None:
        """The adaptation that each row of the table is of; None where there is one alone."""
        if len(self.places) == 1:
            return None
        sizes = [len(self._read(places[0] / "predictions" / f"{split}.jsonl")) for places in self.places.values()]
        return np.repeat(np.arange(len(sizes)), sizes)

    def all(self) -> list[Path]:
        return [place for places in self.places.values() for place in places]


def report(name: str, arms: dict[str, Runs]) -> None:
    """Both domains before, and each arm: its scores, and its difference from plain with the paired interval."""
    plain = arms["plain"]
    task = plain.task
    metric = task.metrics[0]
    scale = 1.0 if metric in ("bleu", "chrf") else 100.0
    sign = -scale if metric in task.lower_is_better else scale

    def value(table: np.ndarray) -> float:
        return float(scores.scores_of(task, table, intervals=False).metrics[metric])

    def change(ours: np.ndarray, theirs: np.ndarray, split: str) -> tuple[float, float, float, float]:
        """Points better, the 95 % interval, the standard error."""
        drawn = sign * scores.differences(task, ours, theirs, plain.clusters(split))[metric]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return sign * (value(ours) - value(theirs)), float(low), float(high), float(drawn.std())

    before = {split: plain.table(split, "before") for split in ("test", "source")}
    base = {split: plain.table(split) for split in ("test", "source")}
    lost, low, high, error = change(base["source"], before["source"], "source")
    longest = max(whole(place) for runs in arms.values() for place in runs.all())
    print(f"\n{name}: {metric}, {len(plain.all())} runs an arm, the longest {longest:.0f} s; before: target "
          f"{scale * value(before['test']):.1f}, source {scale * value(before['source']):.1f}")  # fmt: skip
    print(f"plain fine-tuning's change on the source: {lost:+.1f} [{low:+.1f}, {high:+.1f}], "
          f"{abs(lost) / error:.1f} standard errors")  # fmt: skip
    print("| arm | target | source | target beside plain [95 %] | source beside plain [95 %] | of the drop recovered |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for arm, runs in arms.items():
        cells = [f"{scale * value(runs.table(split)):.1f}" for split in ("test", "source")]
        recovered = "–"
        for split in ("test", "source"):
            gain, *between, _ = change(runs.table(split), base[split], split)
            cells.append(f"{gain:+.1f} [{between[0]:+.1f}, {between[1]:+.1f}]")
            if split == "source" and lost < 0 and arm != "plain":
                recovered = f"{gain / -lost:.0%}"
        print(f"| {arm} | {' | '.join(cells)} | {recovered} |", flush=True)


def whole(place: Path) -> float:
    """Seconds from a run's last start to its result."""
    return (place / "result.json").stat().st_mtime - (place / "recipe.yaml").stat().st_mtime


def budgets(name: str, arms: dict[str, Runs]) -> None:
    """What a budget measured on its held-out rows, and what is found on the test rows of source and target."""
    print("| budget | measured, held | of the way | drop on the source test ± half its 95 % interval | within | "
          "nats on the target test | target, loss |")  # fmt: skip
    print("| --- | --- | ---: | ---: | --- | ---: | --- |")
    for arm, runs in arms.items():
        for place in runs.all() if arm.startswith("at most") else ():
            result = json.loads((place / "result.json").read_text("utf-8"))
            budget, found = result["budget"], result["forgetting"]
            metric = found["source"]["metric"]
            source, target = (found[split]["metrics"][metric] for split in ("source", "target"))
            drop = source["change"] * (1 if metric in Task.lower_is_better else -1)
            half = (source["interval"][1] - source["interval"][0]) / 2
            loss = found["target"]["metrics"].get("loss", target)
            within = "–" if budget["kind"] == "max_kl" else ("yes" if drop <= budget["limit"] + half else "no")
            print(f"| {place.name}: {budget['limit']:g} | {budget['measured']:.4f}, {'yes' if budget['held'] else 'no'}"
                  f" | {budget['share']:.2f} | {drop:+.4f} ± {half:.4f} | {within} | "
                  f"{found['divergence']['target']['reverse_kl']:.4f} | {metric} {target['before']:.3f} → "
                  f"{target['after']:.3f}, {loss['before']:.3f} → {loss['after']:.3f} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(DIALS), default=list(DIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    bench = Bench(options.data, options.output, trains=not options.table)
    for name in options.only:
        dial, found = DIALS[name], dict[str, dict[str, list[Path]]]()
        for speaker in dial.speakers or ("",):
            for arm, _, place in bench.arms(name, dial, speaker, options.seeds if not speaker else options.seeds[:1]):
                found.setdefault(arm, {}).setdefault(speaker, []).append(place)
        if "plain" in found:
            task = opened_model.open_model(next(iter(found["plain"].values()))[0], None).task
            arms = {arm: Runs(task, places) for arm, places in found.items()}
            report(name, arms)
            budgets(name, arms)


if __name__ == "__main__":
    main()
