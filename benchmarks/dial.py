"""The dial between two domains: what each way of holding the old one saves there, and what it costs in the new one.

    python benchmarks/dial.py DATA_FOLDER OUTPUT_FOLDER [--only text tags questions speech] [--seeds 0 1 2]

    text        MiniLM on SST-2 -> airline tweets             accuracy
    tags        MiniLM on PropBank EWT -> its reviews          span F1
    questions   MiniLM on Wikipedia -> Reddit                  F1
    speech      Whisper's architecture on four speakers of FSDD -> the fifth, every speaker once     WER

Each source model is trained once (one a speaker); from it start the arms below, of the same seeds and the same labelled
batches. A finished run is skipped and a stopped one goes on. The table is made of the runs' prediction files: an arm
against plain fine-tuning, pooled over seeds (and speakers), the same draws of rows for both. Changes are oriented so
that more is better, in points.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keeltune import apply, demo, evaluation, recipe, run
from keeltune.display import Display
from keeltune.tasks.task import Task

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


NEW_WHISPER = {
    "new": {"model_type": "whisper", "d_model": 96, "encoder_layers": 2, "decoder_layers": 1, "num_mel_bins": 40,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
            "max_source_positions": 150, "max_target_positions": 32},
    "tokenizer": {"train": "bpe", "size": 300},
}  # fmt: skip

DIALS = {
    "text": Dial("sentiment-analysis", "sentiment-sst2", "sentiment-airline",
                 {"source": 3000, "train": 800, "validation": 300, "test": 1200},
                 {"epochs": 2, "learning_rate": 5e-5}, {"epochs": 4, "learning_rate": 1e-4}),
    "tags": Dial("semantic-role-labeling", "srl-ewt", "srl-ewt-reviews",
                 {"source": 3000, "train": 400, "validation": 200, "test": 500},
                 {"epochs": 3, "learning_rate": 2e-4, "batch_size": 16},
                 {"epochs": 4, "learning_rate": 2e-4, "batch_size": 16}),
    "questions": Dial("question-answering", "qa-wiki", "qa-reddit",
                      {"source": 1200, "train": 300, "validation": 80, "test": 250},
                      {"epochs": 2, "learning_rate": 1e-4, "batch_size": 16},
                      {"epochs": 2, "learning_rate": 1e-4, "batch_size": 16}, {"max_length": 160}),
    "speech": Dial("speech-recognition", "asr-fsdd", "asr-fsdd",
                   {"source": 800, "train": 30, "validation": 50, "test": 200},
                   {"epochs": 25, "learning_rate": 1e-3, "batch_size": 32},
                   {"epochs": 40, "learning_rate": 5e-4, "batch_size": 10}, {"generation": {"max_new_tokens": 8}},
                   ("george", "jackson", "nicolas", "theo", "yweweler")),
}  # fmt: skip


class Bench:
    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder.resolve(), out.resolve()

    def run(self, name: str, values: dict[str, Any]) -> Path:
        place = self.out / name
        if not run.finished(place):
            print(f"… {name}", flush=True)
            run.train(
                recipe.from_dict({**values, "output": name}, self.out),
                resume=place.is_dir(),
                display=Display(quiet=True),
            )
        return place

    def rows(self, name: str, split: str) -> list[dict[str, Any]]:
        (source, *_) = sorted((self.folder / name).glob(f"{split}.jsonl*"))
        raw = source.read_bytes()
        text = (gzip.decompress(raw) if source.suffix == ".gz" else raw).decode("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def files(self, name: str, dial: Dial, speaker: str) -> dict[str, str]:
        """The rows of both domains; of one speaker against the others where there are speakers."""
        place = self.out / "data" / name / speaker
        place.mkdir(parents=True, exist_ok=True)
        if dial.speakers and not (place / "audio").exists():
            shutil.copytree(self.folder / dial.source / "audio", place / "audio")
        made = {}
        for domain, folder in (("source", dial.source), ("target", dial.target)):
            for split in ("train", "validation", "test"):
                rows = self.rows(folder, split)
                if speaker:
                    rows = [row for row in rows if (row["speaker"] == speaker) == (domain == "target")]
                count = dial.rows["source"] if (domain, split) == ("source", "train") else dial.rows[split]
                file = place / f"{domain}-{split}.jsonl"
                lines = [json.dumps(row, ensure_ascii=False) for row in rows[:count]]
                if not file.is_file():
                    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
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
        self.run(f"{first}-source", source)
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
                    "model": f"{first}-source",
                    "data": {**rows, "source": own},
                    "training": training,
                }
                yield arm, seed, self.run(f"{first}-{arm.replace(',', '').replace(' ', '-')}-{seed}", values)


def table_of(task: Task, file: Path) -> np.ndarray:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return task.statistics([row["prediction"] for row in rows], [row["gold"] for row in rows])


def report(name: str, runs: dict[str, list[Path]]) -> None:
    """Both domains before, and each arm: its scores, and its difference from plain with the paired interval."""
    task = apply.open_model(runs["plain"][0], None).task
    metric = task.metrics[0]
    scale = 1.0 if metric in ("bleu", "chrf") else 100.0
    sign = -scale if metric in task.lower_is_better else scale

    def value(table: np.ndarray) -> float:
        return float(task.scores(table.sum(0))[metric])

    def pooled(arm: str, split: str, where: str = "") -> np.ndarray:
        return np.concatenate([table_of(task, place / "predictions" / where / f"{split}.jsonl") for place in runs[arm]])

    before = {split: pooled("plain", split, "before") for split in ("test", "source")}
    plain = {split: pooled("plain", split) for split in ("test", "source")}
    print(f"\n{name}: {metric}, {len(runs['plain'])} runs an arm; before: target {100 * value(before['test']):.1f}, "
          f"source {100 * value(before['source']):.1f}")  # fmt: skip
    lost = differences(task, plain["source"], before["source"], metric) * sign
    print(f"plain fine-tuning's change on the source: {lost[0]:+.1f} [{np.percentile(lost[1:], 2.5):+.1f}, "
          f"{np.percentile(lost[1:], 97.5):+.1f}], {-lost[0] / lost[1:].std():.1f} standard errors")  # fmt: skip
    print("| arm | target | source | target beside plain [95 %] | source beside plain [95 %] | of the drop recovered |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for arm in runs:
        cells = [f"{100 * value(pooled(arm, split)):.1f}" for split in ("test", "source")]
        recovered = "–"
        for split in ("test", "source"):
            found = differences(task, pooled(arm, split), plain[split], metric) * sign
            low, high = np.percentile(found[1:], [2.5, 97.5])
            cells.append(f"{found[0]:+.1f} [{low:+.1f}, {high:+.1f}]")
            if split == "source" and lost[0] < 0:
                recovered = f"{found[0] / -lost[0]:.0%}"
        print(f"| {arm} | {' | '.join(cells)} | {recovered} |", flush=True)


def differences(task: Task, ours: np.ndarray, theirs: np.ndarray, metric: str) -> np.ndarray:
    """Of the metric: first on all rows, then on each draw."""
    both = np.concatenate([ours, theirs], axis=1)
    sums = np.concatenate([both.sum(0, keepdims=True), evaluation.bootstrap(both)])
    a, b = (task.scores(part)[metric] for part in np.split(sums, [ours.shape[1]], axis=1))
    return np.asarray(a - b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(DIALS), default=list(DIALS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    for name in options.only:
        dial, runs = DIALS[name], dict[str, list[Path]]()
        for speaker in dial.speakers or ("",):
            for arm, _, place in bench.arms(name, dial, speaker, options.seeds if not speaker else options.seeds[:1]):
                runs.setdefault(arm, []).append(place)
        report(name, runs)


if __name__ == "__main__":
    main()
