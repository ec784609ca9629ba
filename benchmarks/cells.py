"""Ten applications × three methods on real data, each cell a run of minutes: does every cell learn more than a guess?

    python benchmarks/cells.py DATA_FOLDER OUTPUT_FOLDER [--only sentiment-analysis translation …] [--table]

A finished run is skipped, so the command can be stopped and called again. Each application has a source domain, on
which its `fine-tuning` cell trains. That model is the teacher of the `distillation` cell (a student of fewer layers, on
the same rows) and the source model of the `cross-domain` cell (another data set, or the same where there is one alone).
Rows are cut to the numbers below, from the start of each file. The last part prints a table from the runs' results
alone: the metric on the test rows with its 95 % interval, a trivial answer's beside it, seconds and peak memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeltune import apply, data, demo, evaluation, recipe, run
from keeltune.data import Row
from keeltune.display import Display

Answer = Callable[[Sequence[Row], Sequence[Row]], list[Any]]
MARIAN = {"model_type": "marian", "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1,
          "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512,
          "max_position_embeddings": 512, "scale_embedding": True}  # fmt: skip
LLAMA = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}  # fmt: skip
WHISPER = {"model_type": "whisper", "d_model": 96, "encoder_layers": 2, "decoder_layers": 2, "num_mel_bins": 40,
           "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
           "max_source_positions": 150, "max_target_positions": 32}  # fmt: skip
CAPTIONER = {
    "model_type": "vision-encoder-decoder",
    "encoder": {"model_type": "vit", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "intermediate_size": 256, "image_size": 64, "patch_size": 16},
    "decoder": {"model_type": "gpt2", "n_embd": 96, "n_layer": 2, "n_head": 4, "n_positions": 64},
}  # fmt: skip


@dataclass(frozen=True)
class Application:
    """A row of the table: its data, its model, how long it trains, and the trivial answer that it must beat."""

    name: str
    task: str
    source: str
    target: str
    guess: Answer
    model: Any = None  # None: MiniLM
    student: Any = None  # None: two of the teacher's layers
    rows: tuple[int, int, int] = (2000, 200, 400)
    training: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


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


def nothing(train: Sequence[Row], test: Sequence[Row]) -> list[Any]:
    return [""] * len(test)


def bpe(size: int) -> dict[str, Any]:
    return {"train": "bpe", "size": size}


APPLICATIONS = [
    Application("text classification", "text-classification", "topic-agnews", "topic-agnews", majority,
                more={"max_length": 64}),
    Application("sentiment analysis", "sentiment-analysis", "sentiment-sst2", "sentiment-airline", majority),
    Application("question answering", "question-answering", "qa-wiki", "qa-reddit", first_words,
                rows=(1500, 100, 300), training={"epochs": 3, "learning_rate": 1e-4, "batch_size": 16},
                more={"max_length": 160}),
    Application("semantic role labelling", "semantic-role-labeling", "srl-ewt", "srl-ewt-reviews", frequent_tags,
                rows=(3000, 200, 400), training={"epochs": 4, "learning_rate": 3e-4}),
    Application("summarization", "summarization", "summ-mtsdialog", "summ-dialogsum", lead,
                model={"new": MARIAN, "tokenizer": bpe(4000)}, rows=(1195, 60, 200),
                training={"epochs": 12, "learning_rate": 1e-3, "batch_size": 32},
                more={"max_length": 256, "target_max_length": 96, "generation": {"max_new_tokens": 64}}),
    Application("translation", "translation", "translation-multi30k-en-de", "translation-multi30k-en-de", copied,
                model={"new": MARIAN, "tokenizer": bpe(4000)}, rows=(8000, 100, 400),
                training={"epochs": 12, "learning_rate": 2e-3, "batch_size": 64},
                more={"generation": {"max_new_tokens": 40}}),
    Application("image captioning", "image-captioning", "caption-coco", "caption-coco", constant_caption,
                model={"new": CAPTIONER, "tokenizer": bpe(600)}, rows=(68, 13, 34),
                training={"epochs": 30, "learning_rate": 1e-3, "batch_size": 16},
                more={"generation": {"max_new_tokens": 24}}),
    Application("speech recognition", "speech-recognition", "asr-fsdd", "asr-fsdd", frequent_word,
                model={"new": WHISPER, "tokenizer": bpe(300)}, rows=(1000, 60, 250),
                training={"epochs": 20, "learning_rate": 1e-3, "batch_size": 32},
                more={"generation": {"max_new_tokens": 8}}),
    Application("summary generation", "summarization", "summ-email-aeslc", "summ-scitldr", lead,
                model={"new": LLAMA, "tokenizer": bpe(4000)}, rows=(4000, 60, 300),
                training={"epochs": 4, "learning_rate": 1e-3, "batch_size": 32},
                more={"max_length": 256, "target_max_length": 32, "generation": {"max_new_tokens": 24}}),
    Application("instruction tuning", "text-generation", "translation-multi30k-en-de", "translation-multi30k-en-de",
                nothing, model={"new": LLAMA, "tokenizer": bpe(4000)}, rows=(6000, 100, 300),
                training={"epochs": 4, "learning_rate": 1e-3, "batch_size": 64},
                more={"max_length": 128, "generation": {"max_new_tokens": 32}}),
]  # fmt: skip


class Bench:
    """Where data and runs lie, and how a cell is run once."""

    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder.resolve(), out.resolve()

    def files(self, app: Application, name: str) -> dict[str, str]:
        """The cut splits of a data set, beside a link to its pictures and sounds."""
        place = self.out / "data" / f"{app.task}-{name}"
        place.mkdir(parents=True, exist_ok=True)
        for media in ("images", "audio"):
            if (self.folder / name / media).is_dir() and not (place / media).exists():
                shutil.copytree(self.folder / name / media, place / media)
        made = {}
        for split, count in zip(("train", "validation", "test"), app.rows, strict=True):
            made[split] = str(place / f"{split}.jsonl")
            if not Path(made[split]).is_file():
                (source, *_) = sorted((self.folder / name).glob(f"{split}.jsonl*"))
                raw = source.read_bytes()
                lines = (gzip.decompress(raw) if source.suffix == ".gz" else raw).decode("utf-8").splitlines()[:count]
                if app.task == "text-generation":
                    rows = [json.loads(line) for line in lines]
                    asked = "Translate into German: {}\n"
                    chats = [{"prompt": asked.format(r["source"]), "completion": r["target"]} for r in rows]
                    lines = [json.dumps(chat, ensure_ascii=False) for chat in chats]
                Path(made[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return made

    def run(self, app: Application, method: str) -> dict[str, Any]:
        """The cell's result; trained now unless it was before."""
        name = f"{app.name.replace(' ', '-')}-{method}"
        file = self.out / name / "result.json"
        if not (file.is_file() and json.loads(file.read_text("utf-8"))["status"] == "completed"):
            print(f"… {name}", flush=True)
            values = {"task": app.task, "method": method, **self._spec(app, method), **app.more, "output": name}
            run.train(recipe.from_dict(values, self.out), overwrite=file.parent.is_dir(), display=Display(quiet=True))
        return dict(json.loads(file.read_text("utf-8")))

    def _spec(self, app: Application, method: str) -> dict[str, Any]:
        source, first = self.files(app, app.source), f"{app.name.replace(' ', '-')}-fine-tuning"
        training = dict(app.training)
        if method == "fine-tuning":
            return {"model": app.model or demo.encoder_path(), "data": source, "training": training}
        if method == "distillation":
            student = app.student or {"from": first, "layers": 1 if app.model else 2}
            return {"model": student, "reference": first, "data": source, "training": training}
        target = source if app.target == app.source else self.files(app, app.target)
        control = {} if app.target == app.source else {"source": {"test": source["test"]}}
        training["learning_rate"] = training.get("learning_rate", 5e-5) / 2
        return {"model": first, "data": {**target, **control}, "training": training}

    def guess(self, app: Application, method: str) -> tuple[str, float, list[float]]:
        """The trivial answer's score on the cell's test rows: (metric, value, interval)."""
        opened = apply.open_model(self.out / f"{app.name.replace(' ', '-')}-{method}", None)
        files = self.files(app, app.target if method == "cross-domain" else app.source)
        train, test = (
            data.read(files[s], resolve=Path, columns=opened.columns, mapping={})[0] for s in ("train", "test")
        )
        answers = [evaluation.Prediction(value, None, 0.0, 1.0) for value in app.guess(train, test)]
        scores = evaluation.score(opened.task, answers, test)
        name = next(n for n in opened.task.metrics if n not in ("loss", "perplexity"))
        return name, scores.metrics[name], list(scores.intervals[name])


METHODS = ("fine-tuning", "distillation", "cross-domain")


def table(bench: Bench, applications: Sequence[Application]) -> None:
    print("| application | method | metric | trivial answer | test [95 %] | apart | seconds | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- | ---: | ---: |")
    for app in applications:
        for method in METHODS:
            file = bench.out / f"{app.name.replace(' ', '-')}-{method}" / "result.json"
            if not file.is_file():
                continue
            result = json.loads(file.read_text("utf-8"))
            name, value, (low, high) = bench.guess(app, method)
            after, interval = result["metrics"]["test"][name], result["intervals"]["test"][name]
            better = interval[1] < low if name in ("wer", "cer") else interval[0] > high
            print(
                f"| {app.name} | {method} | {name} | {value:.3g} [{low:.3g}, {high:.3g}] | {after:.3g} "
                f"[{interval[0]:.3g}, {interval[1]:.3g}] | {'yes' if better else 'no'} | "
                f"{result['training']['seconds']:.0f} | {result['training']['peak_memory_bytes'] / 2**30:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", metavar="TASK", help="names of applications or of tasks")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    bench = Bench(options.data, options.output)
    chosen = [a for a in APPLICATIONS if not options.only or {a.name, a.task} & set(options.only)]
    for app in () if options.table else chosen:
        for method in METHODS:
            bench.run(app, method)
    table(bench, chosen)


if __name__ == "__main__":
    main()
