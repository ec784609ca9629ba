"""keeltune beside the trainers that people use, in turns: what they need to train and to score, and what they reach.

    python benchmarks/peers.py DATA MODELS OUT [--rounds 3] [--only classification decoder …] [--table]

MODELS has the folder `smollm2` (SmolLM2-135M-Instruct). Each cell runs in a process of its own, one after the other, in
an order that changes from round to round; all see the same rows, model, rate, rows a step, epochs and precision. TRL is
needed for `decoder` alone (`pip install trl`) and left out where it is not installed. The figures go to `peers.json`
beside this file. Run it with nothing else running.

    training   the seconds of the steps
    all        from the rows and the folder to the trained model and the score of the test rows, imports left out
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data_sets

FIGURES = Path(__file__).with_suffix(".json")

ASK = "Write the subject line of this email.\n\n{document}"


@dataclass(frozen=True)
class Workload:
    """The rows and settings that all peers of it share. `rows`: of training and test; `longest`: the characters
    of a row that is taken, so that none is cut, which each library does in its own way."""

    data: str
    rows: tuple[int, int]
    batch_size: int
    epochs: int
    learning_rate: float
    max_length: int
    new_tokens: int = 0
    longest: int = 1000


WORKLOADS = {
    "classification": Workload("sentiment-sst2", (768, 400), 32, 1, 5e-5, 128),
    "decoder": Workload("summ-email-aeslc", (48, 24), 8, 1, 2e-5, 256, 16, 700),
    "translation": Workload("translation-multi30k-en-de", (512, 100), 32, 1, 1e-3, 64, 32),
}

PEERS = {
    "classification": ("keeltune", "Trainer", "Trainer, by length"),
    "decoder": ("keeltune", "TRL", "TRL, at its best"),
    "translation": ("keeltune", "Seq2SeqTrainer", "Seq2SeqTrainer, by length"),
}
"""As it comes, and with the settings that make it fastest here."""


@dataclass
class Cell:
    """What a peer gets: its files, the model's folder, the settings."""

    of: Workload
    folder: Path
    model: str
    task: str

    def rows(self, split: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text("utf-8").split("\n") if line]


def ours(cell: Cell) -> dict[str, float]:
    import keeltune as kt
    from keeltune.utils.progress import Display

    decoder = cell.task == "summarization"
    recipe = {
        "task": cell.task, "method": "fine-tuning", "model": cell.model, "output": str(cell.folder / "out"),
        "data": {"validation": None, **{split: str(cell.folder / f"{split}.jsonl") for split in ("train", "test")}},
        "max_length": cell.of.max_length,
        "training": {"epochs": cell.of.epochs, "batch_size": cell.of.batch_size, "precision": precision(),
                     "learning_rate": cell.of.learning_rate, "save_strategy": "no"},
        **({"generation": {"max_new_tokens": cell.of.new_tokens}} if cell.of.new_tokens else {}),
        **({"prompt": [{"role": "user", "content": ASK}]} if decoder else {}),
        **({"evaluation": {"language": "de"}} if cell.task == "translation" else {}),
    }  # fmt: skip
    result = kt.train(recipe, display=Display(quiet=True)).result
    score = next(iter(result["metrics"]["test"].values()))
    return {"training": result["training"]["seconds"], "score": score}


def options(cell: Cell, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(cell.folder / "out"), "num_train_epochs": cell.of.epochs, "use_cpu": True,
        "learning_rate": cell.of.learning_rate, "weight_decay": 0.01, "warmup_steps": 0.1, "report_to": "none",
        "per_device_train_batch_size": cell.of.batch_size, "per_device_eval_batch_size": 64, "save_strategy": "no",
        "disable_tqdm": True, "bf16": precision() == "bf16", **changes,
    }  # fmt: skip


BY_LENGTH = {"train_sampling_strategy": "group_by_length"}


def timed(trainer: Any) -> float:
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def classified(cell: Cell, **changes: Any) -> dict[str, float]:
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(cell.model)
    labels = sorted({row["label"] for row in cell.rows("train")})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        cell.model, num_labels=len(labels), dtype="float32"
    )

    def encoded(split: str) -> Any:
        rows = datasets.Dataset.from_list(cell.rows(split))
        cut = {"truncation": True, "max_length": cell.of.max_length}
        return rows.map(
            lambda some: {**tokenizer(some["text"], **cut), "labels": [labels.index(x) for x in some["label"]]},
            batched=True, remove_columns=rows.column_names,
        )  # fmt: skip

    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**options(cell, **changes)),
        train_dataset=encoded("train"),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    seconds = timed(trainer)
    answers = trainer.predict(encoded("test"))
    return {"training": seconds, "score": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}


def written(cell: Cell, **changes: Any) -> dict[str, float]:
    """TRL's SFTTrainer, then texts by `generate` in batches of 64, ROUGE-L by rouge-score."""
    import datasets
    import torch
    import transformers
    import trl
    from rouge_score import rouge_scorer

    tokenizer = transformers.AutoTokenizer.from_pretrained(cell.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(cell.model, dtype=torch.float32)

    def asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": ASK.format(document=row["document"])}]

    rows = [
        {"prompt": asked(row), "completion": [{"role": "assistant", "content": row["summary"]}]}
        for row in cell.rows("train")
    ]
    arguments = trl.SFTConfig(**options(cell, max_length=cell.of.max_length, **changes))
    trainer = trl.SFTTrainer(
        model, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    seconds = timed(trainer)
    test, texts = cell.rows("test"), []
    tokenizer.padding_side = "left"
    model.eval()
    for start in range(0, len(test), 64):
        ids = tokenizer.apply_chat_template(
            [asked(row) for row in test[start : start + 64]], add_generation_prompt=True, return_tensors="pt",
            padding=True, truncation=True, max_length=cell.of.max_length, return_dict=True,
        )  # fmt: skip
        out = model.generate(**ids, max_new_tokens=cell.of.new_tokens, do_sample=False)
        texts += tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    scores = [scorer.score(row["summary"], text)["rougeL"].fmeasure for row, text in zip(test, texts, strict=True)]
    return {"training": seconds, "score": statistics.fmean(scores)}


def translated(cell: Cell, **changes: Any) -> dict[str, float]:
    import datasets
    import sacrebleu
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(cell.model)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(cell.model, dtype="float32")

    def encoded(split: str) -> Any:
        rows = datasets.Dataset.from_list(cell.rows(split))
        cut = {"truncation": True, "max_length": cell.of.max_length}
        return rows.map(
            lambda some: tokenizer(some["source"], text_target=some["target"], **cut),
            batched=True, remove_columns=rows.column_names,
        )  # fmt: skip

    arguments = transformers.Seq2SeqTrainingArguments(
        **options(cell, predict_with_generate=True, generation_max_length=cell.of.new_tokens + 1, **changes)
    )
    trainer = transformers.Seq2SeqTrainer(
        model, arguments, train_dataset=encoded("train"),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, model=model),
    )  # fmt: skip
    seconds = timed(trainer)
    answers = trainer.predict(encoded("test")).predictions
    answers[answers < 0] = tokenizer.pad_token_id
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return {
        "training": seconds,
        "score": sacrebleu.corpus_bleu(texts, [[row["target"] for row in cell.rows("test")]]).score,
    }


TASKS = {"classification": "text-classification", "decoder": "summarization", "translation": "translation"}

RUNS: dict[str, Callable[[Cell], dict[str, float]]] = {
    "keeltune": ours,
    "Trainer": classified,
    "Trainer, by length": lambda cell: classified(cell, **BY_LENGTH),
    "TRL": written,
    "TRL, at its best": lambda cell: written(cell, gradient_checkpointing=False, **BY_LENGTH),
    "Seq2SeqTrainer": translated,
    "Seq2SeqTrainer, by length": lambda cell: translated(cell, **BY_LENGTH),
}


def precision() -> str:
    """bf16 where the processor has it in hardware, else fp32: as several processes choose, who do not time it."""
    from keeltune.utils.device import choose_precision

    return choose_precision("auto", "cpu", world_size=2)


def new_model(place: Path, texts: list[str]) -> str:
    """A small T5 of random weights with a tokenizer of its own."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if not (place / "config.json").is_file():
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special = ["<pad>", "</s>", "<unk>"]
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, special_tokens=special))
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(place)
        torch.manual_seed(0)
        sizes = {"vocab_size": 4000, "d_model": 256, "d_ff": 1024, "d_kv": 64, "num_heads": 4, "num_layers": 4}
        tokens = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
        transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **tokens)).save_pretrained(place)
    return str(place)


def one(workload: str, peer: str, data: Path, models: Path, out: Path) -> dict[str, float]:
    """A cell, in this process, which is its own."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    of = WORKLOADS[workload]
    with tempfile.TemporaryDirectory() as folder:
        for split, count in zip(("train", "test"), of.rows, strict=True):
            lines = [line for line in data_sets.lines(data / of.data, split) if len(line) < of.longest]
            data_sets.written(Path(folder) / f"{split}.jsonl", lines[:count])
        if workload == "classification":
            from keeltune.cli import demo

            model = demo.encoder_path()
        elif workload == "decoder":
            model = str(models / "smollm2")
        else:
            rows = data_sets.rows(data / of.data, "train", of.rows[0])
            model = new_model(out / "t5", [row[name] for row in rows for name in ("source", "target")])
        cell = Cell(of, Path(folder), model, TASKS[workload])
        torch.manual_seed(0)
        __import__(
            "keeltune.runs.one_seed" if peer == "keeltune" else "trl" if "TRL" in peer else "transformers.trainer"
        )
        start = time.perf_counter()
        found = RUNS[peer](cell)
        seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**found, "all": seconds, "memory": memory}


def table(every: Mapping[str, Mapping[str, Any]]) -> None:
    print("| workload | | training, s | all, s | beside keeltune, training | all | GiB | score |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for workload, peers in every.items():
        for peer, rounds in peers.items():
            ratio = {
                part: statistics.median(a[part] / b[part] for a, b in zip(rounds, peers["keeltune"], strict=True))
                for part in ("training", "all")
            }
            print(
                f"| {workload} | {peer} | {spread(rounds, 'training')} | {spread(rounds, 'all')} | "
                f"{ratio['training']:.2f} × | {ratio['all']:.2f} × | "
                f"{statistics.median(r['memory'] for r in rounds) / 2**30:.1f} | "
                f"{statistics.median(r['score'] for r in rounds):.3f} |"
            )


def spread(rounds: list[dict[str, float]], part: str) -> str:
    values = [r[part] for r in rounds]
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--one", nargs=2, metavar=("WORKLOAD", "PEER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one, given.data, given.models, given.out)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    every = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {}
    for workload in [] if given.table else given.only:
        peers = [p for p in PEERS[workload] if "TRL" not in p or importlib.util.find_spec("trl") is not None]
        found: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
        for number in range(given.rounds):
            for peer in [*peers[number % len(peers) :], *peers[: number % len(peers)]]:
                command = [sys.executable, __file__, *sys.argv[1:4], "--one", workload, peer]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[peer].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}: {workload}, {peer}: {found[peer][-1]}", flush=True)
        every[workload] = found
        FIGURES.write_text(json.dumps(every, indent=1) + "\n", "utf-8")
    table(every)


if __name__ == "__main__":
    main()
