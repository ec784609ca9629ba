"""What users do with pretrained decoders and speech models, in every arm: zero-shot, plain, LoRA, distilled, anchored.

    python benchmarks/pretrained.py DATA MODELS OUT [--only mails-plain ljspeech …] [--table]

MODELS has the folders `smollm2` (SmolLM2-135M-Instruct), `whisper-tiny.en` and `whisper-base`. OUT gets the first rows
of each data set and a run of each arm. A finished run is skipped and a stopped one goes on, so that the command can be
called again; its figures go to `pretrained.json` beside this file, which the table is printed from. Zero-shot is what a
run scored before training.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data_sets
import numpy as np
import soundfile
import torch
import transformers

import keeltune as kt
from keeltune import recipe
from keeltune.evaluation.scores import score
from keeltune.runs import opened_model, run_folder
from keeltune.tasks.common.example import Prediction
from keeltune.utils.progress import Display

ROWS = {  # train, validation, test
    "summ-email-aeslc": (600, 40, 200),
    "few-mails": (160, 16, 60),  # of the same: all arms side by side in minutes
    "summ-scitldr": (160, 16, 60),
    "summ-dialogsum": (80, 12, 40),
    "translation-multi30k-en-de": (240, 20, 80),
    "asr-ljspeech": (113, 15, 40),
    "asr-fsdd": (300, 40, 150),
}
CHATS = 20
"""Conversations on which the chat model's own answers are kept, as a test of what it still says."""

JOINED_SECONDS, SHUFFLES = 28.0, 4
"""Whisper reads thirty seconds however short a recording is, so that clips in a row teach several for the price of one:
https://arxiv.org/abs/2311.00430, section 3."""

FIGURES = Path(__file__).with_suffix(".json")
"""What the table is printed from: a run's figures are written when it has ended."""

DECODER, TINY, BASE = "smollm2", "whisper-tiny.en", "whisper-base"


@dataclass(frozen=True)
class Arm:
    """A run: `changes` is laid over what its family's runs have in common. Three `seeds` where one takes minutes."""

    name: str
    data: str
    model: Any
    changes: Mapping[str, Any] = field(default_factory=dict)
    method: str = "fine-tuning"

    @property
    def family(self) -> str:
        return self.name.split("-")[0]


LORA = {"training": {"lora": {"rank": 16}, "learning_rate": 2e-4}}
"""LoRA's rate is some ten times that of all weights: https://arxiv.org/abs/2106.09685, appendix D."""

ABILITIES = [{"name": "chats", "data": "data/chats/test.jsonl", "task": "text-generation", "max_new_tokens": 32}]

COMMON: dict[str, dict[str, Any]] = {
    "mails": {
        "task": "summarization", "max_length": 256, "generation": {"max_new_tokens": 20},
        "prompt": [{"role": "user", "content": "Write the subject line of this email.\n\n{document}"}],
        "training": {"epochs": 2, "learning_rate": 2e-5, "batch_size": 8, "gradient_accumulation_steps": 2},
        "data": {"source": {"test": ABILITIES}},
    },
    "papers": {
        "task": "summarization", "max_length": 384, "generation": {"max_new_tokens": 48},
        "training": {"epochs": 2, "learning_rate": 2e-5, "batch_size": 4, "gradient_accumulation_steps": 4},
    },
    "dialogues": {
        "task": "summarization", "max_length": 384, "generation": {"max_new_tokens": 64},
        "training": {"epochs": 2, "learning_rate": 2e-5, "batch_size": 4, "gradient_accumulation_steps": 4},
    },
    "pictures": {
        "task": "translation", "generation": {"max_new_tokens": 40},
        "prompt": [{"role": "user", "content": "Translate into German.\n\n{source}"}],
        "evaluation": {"language": "de"},
        "training": {"epochs": 2, "learning_rate": 5e-5, "batch_size": 16},
    },
    "ljspeech": {
        "task": "speech-recognition", "generation": {"max_new_tokens": 64},
        "evaluation": {"language": "en"},
        "training": {"epochs": 4, "learning_rate": 1e-5, "batch_size": 8},
    },
    "digits": {
        "task": "speech-recognition", "generation": {"max_new_tokens": 64},
        "evaluation": {"language": "en"},
        "data": {"source": {split: f"data/asr-ljspeech/{split}.jsonl" for split in ("validation", "test")}},
        "training": {"epochs": 2, "learning_rate": 1e-5, "batch_size": 8},
    },
}  # fmt: skip
"""What the runs of a family have in common."""

COMMON["few"] = COMMON["mails"]

ALONE = {"data": {"source": {"test": None}}}
"""Without what the model may forget, which takes longer to score than the test rows."""

ANCHORED = {"objective": {"anchor_on": "source"}}
TWO_LAYERS = {"from": BASE, "layers": {"decoder": 2}}

MAILS, FEW_MAILS, SPEECH, DIGITS = "summ-email-aeslc", "few-mails", "asr-ljspeech", "asr-fsdd"
ARMS = [
    Arm("mails-plain", MAILS, DECODER),
    Arm("few-plain", FEW_MAILS, DECODER),
    Arm("few-lora", FEW_MAILS, DECODER, LORA),
    Arm("few-half", FEW_MAILS, {"from": "runs/few-plain/model", "layers": 15},
        {"reference": {"model": "runs/few-plain/model", "from": "cached", "form": "top-k"}, **ALONE,
         "training": {"learning_rate": 1e-4}}, "distillation"),
    Arm("few-target", FEW_MAILS, DECODER, {}, "cross-domain"),
    Arm("few-source", FEW_MAILS, DECODER,
        {**ANCHORED, "data": {"source": {"unlabeled": "data/summ-dialogsum/train.jsonl"}}}, "cross-domain"),
    Arm("few-generated", FEW_MAILS, DECODER, {"objective": {"anchor_on": "generated"}}, "cross-domain"),
    Arm("papers-plain", "summ-scitldr", DECODER),
    Arm("papers-lora", "summ-scitldr", DECODER, LORA),
    Arm("dialogues-plain", "summ-dialogsum", DECODER),
    Arm("dialogues-lora", "summ-dialogsum", DECODER, LORA),
    Arm("pictures-plain", "translation-multi30k-en-de", DECODER),
    Arm("pictures-lora", "translation-multi30k-en-de", DECODER, LORA),
    Arm("ljspeech-plain", SPEECH, TINY),
    Arm("ljspeech-lora", SPEECH, TINY, {"training": {"lora": {"rank": 16}, "learning_rate": 1e-4}}),
    Arm("ljspeech-base-plain", SPEECH, BASE),
    Arm("ljspeech-base-two", SPEECH, TWO_LAYERS,
        {"reference": {"model": BASE, "from": "online"}, "data": {"train": f"data/{SPEECH}/joined.jsonl"},
         "generation": {"max_new_tokens": 128},
         "training": {"epochs": 5, "learning_rate": 1e-4, "regularizers": {"freeze": ["encoder"]}}}, "distillation"),
    Arm("ljspeech-taught", SPEECH, TINY,
        {"reference": BASE, "objective": {"weight": 0.0}, "generation": {"targets": "reference"}}, "distillation"),
    Arm("digits-plain", DIGITS, TINY),
    Arm("digits-lora", DIGITS, TINY, {"training": {"lora": {"rank": 16}, "learning_rate": 1e-4}}),
    Arm("digits-base-plain", DIGITS, BASE, {"data": {"source": None}}),
    Arm("digits-target", DIGITS, TINY, {}, "cross-domain"),
    Arm("digits-source", DIGITS, TINY,
        {**ANCHORED, "data": {"source": {"unlabeled": "data/asr-ljspeech/train.jsonl"}}}, "cross-domain"),
]  # fmt: skip


class Bench:
    """Where data, models and runs lie."""

    def __init__(self, data: Path, models: Path, out: Path):
        self.data, self.models, self.out = data.resolve(), models.resolve(), out.resolve()

    def prepare(self) -> None:
        """The first rows of each split, their recordings beside them, and the chat model's answers."""
        for name, counts in ROWS.items():
            place, source = self.out / "data" / name, self.data / (MAILS if name == FEW_MAILS else name)
            if (self.data / name / "audio").is_dir() and not (place / "audio").exists():
                shutil.copytree(self.data / name / "audio", place / "audio")
            for split, count in zip(("train", "validation", "test"), counts, strict=True):
                if not (place / f"{split}.jsonl").is_file():
                    data_sets.written(place / f"{split}.jsonl", data_sets.rows(source, split, count))
        self._joined()
        if not (chats := self.out / "data" / "chats" / "test.jsonl").is_file():
            questions = [row["question"] for row in data_sets.rows(self.data / "qa-wiki", "test", CHATS)]
            data_sets.written(chats, list(self._chats(questions)))

    def _joined(self) -> None:
        """The training clips, and clips in a row that fill what Whisper reads at once, in several orders."""
        folder = self.out / "data" / SPEECH
        if (folder / "joined.jsonl").is_file():
            return
        clips = data_sets.rows(self.data / SPEECH, "train")
        rows = list(clips)
        for seed in range(SHUFFLES):
            order = list(clips)
            random.Random(seed).shuffle(order)
            for row in _in_a_row(order):
                name = f"audio/joined-{len(rows)}.flac"
                sounds = [soundfile.read(folder / clip["audio"], dtype="float32") for clip in row]
                soundfile.write(folder / name, np.concatenate([sound for sound, _ in sounds]), sounds[0][1])
                rows.append({"audio": name, "text": " ".join(clip["text"] for clip in row)})
        data_sets.written(folder / "joined.jsonl", [{"audio": r["audio"], "text": r["text"]} for r in rows])

    def _chats(self, questions: list[str]) -> Iterator[dict[str, Any]]:
        """Each question with the answer that the chat model gives before any training, by transformers alone."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.models / DECODER)
        model = transformers.AutoModelForCausalLM.from_pretrained(self.models / DECODER, dtype=torch.float32).eval()
        for question in questions:
            asked = [{"role": "user", "content": question}]
            ids = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            written = model.generate(**ids, max_new_tokens=48, do_sample=False)[0, ids["input_ids"].shape[1] :]
            answer = tokenizer.decode(written, skip_special_tokens=True).strip()
            yield {"messages": [*asked, {"role": "assistant", "content": answer}]}

    def spec(self, arm: Arm) -> dict[str, Any]:
        splits = {split: f"data/{arm.data}/{split}.jsonl" for split in ("train", "validation", "test")}
        values = {"method": arm.method, "data": splits, "output": f"runs/{arm.name}", "training": {"interpolate": None}}
        values = merged(values, COMMON[arm.family])
        values = merged(values, {"model": arm.model, **arm.changes})
        return {**values, **{name: self._at_hand(values[name]) for name in ("model", "reference") if name in values}}

    def _at_hand(self, model: Any) -> Any:
        """Models' names as the folders where they lie."""
        if isinstance(model, dict):
            return {name: self._at_hand(value) for name, value in model.items()}
        return str(self.models / model) if model in (DECODER, TINY, BASE) else model

    def run(self, arm: Arm) -> None:
        folder = self.out / "runs" / arm.name
        if not run_folder.finished(folder):
            print(f"… {arm.name}", flush=True)
            kt.train(recipe.from_dict(self.spec(arm), self.out), resume=folder.is_dir(), display=Display())


def _in_a_row(clips: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The clips in their order, as many together as thirty seconds hold."""
    together: list[dict[str, Any]] = []
    for clip in clips:
        if sum(c["seconds"] for c in [*together, clip]) > JOINED_SECONDS:
            yield together
            together = []
        together.append(clip)
    yield together


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` laid over `values`, mapping by mapping."""
    result = dict(values)
    for name, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], change) if both else change
    return result


def figures(bench: Bench, arm: Arm) -> dict[str, Any]:
    """What the table shows of a finished run."""
    result = json.loads((bench.out / "runs" / arm.name / "result.json").read_text("utf-8"))
    metrics, training = result["metrics"], result["training"]
    name = next(iter(metrics["test"]))
    kept = {
        f"{ability} {change['metric']}": change["metrics"][change["metric"]]
        for ability, change in (result["abilities"] or {}).items()
    }
    if metrics["source"]["after"]:
        for measure in (name, "loss"):
            kept[measure] = {when: metrics["source"][when][measure] for when in ("before", "after")}
    return {
        "metric": name,
        "rows": {split: result["data"][split]["rows"] for split in ("train", "test")},
        "before": (metrics["before"]["test"] or {}).get(name),
        "test": [metrics["test"][name], *result["intervals"]["test"][name]],
        "loss": metrics["test"]["loss"],
        "kept": kept,
        "lead": lead(bench, arm) if arm.name in ("mails-plain", "papers-plain", "dialogues-plain") else None,
        **{part: training[part] for part in ("steps", "seconds", "peak_memory_bytes")},
        "precision": training["precision"],
        "faster": speed(bench, arm) if arm.name == "ljspeech-base-two" else None,
    }


def speed(bench: Bench, arm: Arm) -> float:
    """How many times as fast as its teacher a student transcribes the test clips, both by transformers alone.

    The middle of three rounds, in each of which both go once; greedy, eight clips at once, float32.
    """
    rows = data_sets.rows(bench.out / "data" / arm.data, "test")
    sounds = [soundfile.read(bench.out / "data" / arm.data / row["audio"], dtype="float32")[0] for row in rows]
    processor = transformers.AutoProcessor.from_pretrained(bench.models / BASE)
    features = processor.feature_extractor(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    places = [bench.models / BASE, bench.out / "runs" / arm.name / "model"]
    models = [transformers.WhisperForConditionalGeneration.from_pretrained(p, dtype=torch.float32) for p in places]
    ratios = []
    for _ in range(3):
        seconds = []
        for model in models:
            start = time.perf_counter()
            for first in range(0, len(features), 8):
                model.generate(features[first : first + 8], max_new_tokens=64, language="en", task="transcribe")
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def lead(bench: Bench, arm: Arm) -> list[float]:
    """The first sentence's score on a summarizer's test rows, the answer that is to be beaten, and its interval."""
    opened = opened_model.open_model(bench.out / "runs" / arm.name, None)
    rows = opened_model.read_rows(opened, str(bench.out / "data" / arm.data / "test.jsonl"), opened.columns, None)[0]
    firsts = [row.fields["document"].replace("\n", " ").split(". ")[0] for row in rows]
    scores = score(opened.task, [Prediction(first, None, 0.0, 1.0) for first in firsts], rows)
    return [scores.metrics["rougeL"], *scores.intervals["rougeL"]]


def table(every: Mapping[str, dict[str, Any]]) -> None:
    print("| run | rows | metric | before | test [95 %] | loss, nats | kept: before → after | steps | s | GiB |")
    print("| --- | ---: | --- | ---: | --- | ---: | --- | ---: | ---: | ---: |")
    for arm in (arm for arm in ARMS if arm.name in every):
        found = every[arm.name]
        before = "–" if found["before"] is None else f"{found['before']:.3f}"
        kept = "; ".join(f"{name} {m['before']:.3f} → {m['after']:.3f}" for name, m in found["kept"].items())
        rows = f"{found['rows']['train']}, {found['rows']['test']}"
        print(
            f"| {arm.name} | {rows} | {found['metric']} | {before} | {shown(found['test'])} | {found['loss']:.3f} | "
            f"{kept or '–'} | {found['steps']} | {found['seconds']:.0f} | {found['peak_memory_bytes'] / 2**30:.1f} |"
        )
    for name, found in every.items():
        if found["lead"]:
            print(f"\n{name}, the first sentence: ROUGE-L {shown(found['lead'])}")
        if found.get("faster"):
            print(f"\n{name} transcribes {found['faster']:.2f} times as fast as its teacher")


def shown(value: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runs, or families of them")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    bench = Bench(given.data, given.models, given.out)
    every = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {}
    if not given.table:
        bench.prepare()
        for arm in (arm for arm in ARMS if not given.only or {arm.name, arm.family} & set(given.only)):
            bench.run(arm)
            every[arm.name] = figures(bench, arm)
            FIGURES.write_text(json.dumps(every, indent=1) + "\n", "utf-8")
    table(every)


if __name__ == "__main__":
    main()
