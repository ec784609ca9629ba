"""What a cached reference costs: an epoch beside plain fine-tuning and beside the online reference; capture; bytes.

    python benchmarks/cache_cost.py DATA_FOLDER OUTPUT_FOLDER [--only classifier …] [--rounds 3]

A case is a student, a teacher of the same size, and rows of `DATA_FOLDER`. Its arms (no reference, the reference
online, cached in each form that the case names) train the same micro-batches for the same steps, in turns, every round
in another order; a ratio is the median over the rounds of seconds beside plain's in the same round, as the Trainer
counts them (fetching a step's batches to its optimizer step). `capture` is the reference's forward passes with all that
is written, beside the bare forward passes of the same batches (to the logits; where the head's input is kept, to that).
Run it with nothing else running.

    classifier   MiniLM on SST-2, C = 2                            full
    tagger       MiniLM on PropBank EWT, C = its tags              full
    decoder      GPT-2 of 12 M weights beside its vocabulary, V = 50,257, random: top-k (k = 64), hidden, hidden int8
    anchor       MiniLM on SST-2, the source model its own start: anchored on the target's inputs, cached and online, on
                 inputs of the source domain (a second stream of as many rows a step) cached, and beside replayed rows
    lost         D(live ‖ cached) of each form, of a translator trained on 8,000 pairs of Multi30k
    memory       a small student of a GPT-2 of 124 M random weights: the peak of its training, online and cached, each
                 in a process of its own; the cache is captured by another one before
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import data_sets
import torch
import transformers
from safetensors.torch import load_file, save

from keeltune import recipe
from keeltune.cli import cache, demo
from keeltune.objective.predictions import Projected, slices
from keeltune.runs import run, run_folder
from keeltune.training import build
from keeltune.training.arguments import training_arguments
from keeltune.training.cache import identity
from keeltune.training.cache.form_choice import choose_form
from keeltune.training.cache.shards import BATCH, AnswerSource, answers, in_shards, shard_of
from keeltune.training.job import Job
from keeltune.training.preparation import prepare
from keeltune.training.trainer import KeelTrainer
from keeltune.utils import files, tensor_store
from keeltune.utils.files import read_lines
from keeltune.utils.progress import Display

QUIET = Display(quiet=True)


@dataclass(frozen=True)
class Case:
    task: str
    file: str
    rows: int
    steps: int
    batch_size: int
    forms: dict[str, dict[str, Any]]
    fields: dict[str, Any] = field(default_factory=dict)


CASES = {
    "classifier": Case("sentiment-analysis", "sentiment-sst2", 640, 20, 32, {"full": {"form": "full"}}),
    "tagger": Case("semantic-role-labeling", "srl-ewt", 320, 10, 32, {"full": {"form": "full"}}),
    "anchor": Case("sentiment-analysis", "sentiment-sst2", 640, 20, 32, {}),
    "decoder": Case(
        "translation", "translation-multi30k-en-de", 64, 8, 8,
        {"top-k": {"form": "top-k", "k": 64}, "hidden": {"form": "hidden"},
         "hidden int8": {"form": "hidden", "dtype": "int8"}},
        {"max_length": 128, "target_max_length": 48},
    ),
}  # fmt: skip


def model_of(name: str, out: Path) -> str:
    """The case's model: a folder, made once. A tagger's or a classifier's head is trained for a step: it must be."""
    case, folder = CASES[name], out / f"{name}-model"
    if (folder / "config.json").is_file() or run_folder.finished(folder):
        return str(folder)
    if name == "decoder":
        from tokenizers import ByteLevelBPETokenizer  # ty: ignore

        texts = [line["source"] + "\n" + line["target"] for line in read_lines(out / name / "train.jsonl")]
        made = ByteLevelBPETokenizer()
        made.train_from_iterator(texts, vocab_size=2000, special_tokens=["<|endoftext|>"])
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=made._tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
            bos_token="<|endoftext|>", model_max_length=256,
        )  # fmt: skip
        config = transformers.GPT2Config(vocab_size=50_257, n_embd=384, n_layer=6, n_head=6, n_positions=256)
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)
    values = {"task": case.task, "method": "fine-tuning", "model": demo.encoder_path(), "output": str(folder),
              "data": {"train": str(out / name / "train.jsonl")}, "training": {"max_steps": 1}}  # fmt: skip
    run.train(recipe.from_dict(values, out), display=QUIET)
    return str(folder)


def rows_of(name: str, data: Path, out: Path) -> None:
    case, file = CASES[name], out / name / "train.jsonl"
    if not file.is_file():
        data_sets.written(file, data_sets.lines(data / case.file, "train", case.rows))


def job_of(name: str, out: Path, reference: dict[str, Any] | None, source: str = "") -> Job:
    """`source` names what the source domain gives, `unlabeled` or `train`: then this is cross-domain, or replay."""
    case, model = CASES[name], model_of(name, out)
    rows = str(out / name / "train.jsonl")
    values = {
        "task": case.task,
        "method": "fine-tuning" if reference is None else "cross-domain" if name == "anchor" else "distillation",
        "model": model,
        **({} if reference is None else {"reference": {"model": model, **reference}}),
        "data": {"train": rows, **({"source": {source: rows}} if source else {})},
        "training": {"max_steps": case.steps, "batch_size": case.batch_size},
        "output": "unused",
        **({"objective": {"anchor_on": "source"}} if source == "unlabeled" else {}),
        **case.fields,
    }
    return build.build(prepare.prepare(recipe.from_dict(values, out)), QUIET)


def seconds(job: Job, start: dict[str, torch.Tensor], folder: Path) -> float:
    """Training's own seconds, from the same weights each time."""
    job.model.load_state_dict(start, strict=False)
    spec = job.material.recipe.training
    arguments = training_arguments(
        folder, batch_size=job.material.batch_size, accumulation=1, epochs=1, max_steps=spec.max_steps, every=None,
        learning_rate=1e-5, seed=0, passed={"save_strategy": "no"},
    )  # fmt: skip
    trainer = KeelTrainer(job.model, arguments, job.plan, task=job.material.task, objective=job.objective,
                          reference=job.reference, autocast=job.autocast)  # fmt: skip
    trainer.train()
    return trainer.training_totals.seconds


def epochs(name: str, out: Path, rounds: int) -> None:
    case = CASES[name]
    arms: dict[str, dict[str, Any] | None] = {"plain": None, "online": {"from": "online"}}
    arms |= {form: {"from": "cached", **how} for form, how in case.forms.items()}
    jobs = {arm: job_of(name, out, reference) for arm, reference in arms.items()}
    if name == "anchor":
        cached = {"from": "cached", "form": "full"}
        jobs |= {"target, cached": job_of(name, out, cached), "replay": job_of(name, out, None, "train"),
                 "source, cached": job_of(name, out, cached, "unlabeled")}  # fmt: skip
    folder = Path(model_of(name, out))
    weights = next(p for p in (folder / "model.safetensors", folder / "model" / "model.safetensors") if p.is_file())
    start = load_file(weights)
    times: dict[str, list[float]] = {arm: [] for arm in jobs}
    for number in range(rounds + 1):  # the first is not counted
        order = list(jobs)[number % len(jobs) :] + list(jobs)[: number % len(jobs)]
        for arm in order:
            spent = seconds(jobs[arm], start, out / "trainer")
            if number:
                times[arm].append(spent)
    for arm, spent in times.items():
        ratios = [mine / plain for mine, plain in zip(spent, times["plain"], strict=True)]
        stored = jobs[arm].reference_source.cache
        said = "–" if stored is None else f"{stored['bytes_per_prediction']:.0f}"
        print(f"| {name} | {arm} | {statistics.median(spent):.2f} | {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f}–{max(ratios):.3f}) | {said} | {jobs[arm].precision} |", flush=True)  # fmt: skip


def capture(name: str, out: Path, rounds: int) -> None:
    """Seconds of a capture, all of it (answers, columns, digests, files), beside the bare forward passes."""
    case = CASES[name]
    job = job_of(name, out, {"from": "online"})
    assert job.reference is not None
    task = job.material.task
    for arm, how in case.forms.items():
        job.material.recipe = recipe.from_dict(
            {**job.material.recipe.model_dump(by_alias=True, exclude_unset=True),
             "reference": {"model": model_of(name, out), "from": "cached", **how}}, out)  # fmt: skip
        request = identity.cache_request(job.material, job.precision, job.plan.anchored_examples())
        source = AnswerSource(task, job.reference, identity.choices_of(job.material), job.device)
        form, *_ = choose_form(request, job.material, source)
        parts = in_shards(request.examples, task, form, source.choices)
        times: dict[str, list[float]] = {"bare": [], "capture": []}
        for number in range(rounds + 1):
            begun = time.perf_counter()
            for part in parts:
                for first in range(0, len(part), BATCH):
                    rows = answers(part[first : first + BATCH], source, form)
                    for some in slices(rows) if isinstance(rows, Projected) and form.kind != "hidden" else ():
                        with torch.no_grad():
                            rows.head(rows.hidden[some])
            bare = time.perf_counter() - begun
            begun = time.perf_counter()
            for place, part in enumerate(parts):
                tensors, _ = shard_of(part, request.contents, source, form)
                files.write_atomically(out / tensor_store.shard_name(place), save(tensors))
            if number:
                times["bare"].append(bare)
                times["capture"].append(time.perf_counter() - begun)
        share = statistics.median(b / c for b, c in zip(times["bare"], times["capture"], strict=True))
        spent = {what: statistics.median(each) for what, each in times.items()}
        print(f"| {name} | capture, {arm} | {spent['capture']:.2f} | {share:.1%} of the bare forward passes' speed "
              f"({spent['bare']:.2f} s) | | {job.precision} |", flush=True)  # fmt: skip


def lost(data: Path, out: Path) -> None:
    """Bytes a prediction and what they lose, of a trained teacher."""
    writer = {"model_type": "marian", "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1,
              "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 512,
              "decoder_ffn_dim": 512, "max_position_embeddings": 512, "scale_embedding": True}  # fmt: skip
    rows = data_sets.lines(data / "translation-multi30k-en-de", "train", 8400)
    for name, some in (("lost-train", rows[:8000]), ("lost-rows", rows[8000:])):
        data_sets.written(out / f"{name}.jsonl", some)
    if not run_folder.finished(out / "lost-teacher"):
        teacher = {"task": "translation", "method": "fine-tuning", "output": "lost-teacher",
                   "model": {"new": writer, "tokenizer": {"train": "bpe", "size": 4000}},
                   "data": {"train": "lost-train.jsonl"},
                   "training": {"epochs": 8, "batch_size": 64, "learning_rate": 2e-3}}  # fmt: skip
        run.train(recipe.from_dict(teacher, out), display=QUIET)
    forms: list[dict[str, Any]] = [{"form": "full"}]
    forms += [{"form": "top-k", "k": k} for k in (12, 50, 64, 128)]
    forms += [{"form": "hidden", "dtype": dtype} for dtype in ("float32", "float16", "int8")]
    for form in forms:
        values = {"task": "translation", "method": "distillation", "output": "unused",
                  "model": {"from": "lost-teacher/model", "layers": 1}, "data": {"train": "lost-rows.jsonl"},
                  "reference": {"model": "lost-teacher/model", "from": "cached", **form}}  # fmt: skip
        facts = cache.precompute(recipe.from_dict(values, out), overwrite=True, display=QUIET)
        said = " ".join(str(value) for value in form.values())
        print(f"| lost | {said} | | {facts['divergence']:.2e} nats; {facts['mass_kept']:.2%} of the probability kept | "
              f"{facts['bytes_per_prediction']:.0f} | |", flush=True)  # fmt: skip


def memory(data: Path, out: Path) -> None:
    """Peak memory of a training with its teacher in memory, and with its answers alone."""
    rows_of("decoder", data, out)
    small, large = Path(model_of("decoder", out)), out / "memory-teacher"
    if not large.is_dir():
        torch.manual_seed(1)
        config = transformers.GPT2Config(n_positions=256)
        transformers.GPT2LMHeadModel(config).save_pretrained(large)
        transformers.AutoTokenizer.from_pretrained(small).save_pretrained(large)
    values = {"task": "translation", "method": "distillation", "model": str(small),
              "data": {"train": str(out / "decoder" / "train.jsonl")}, "training": {"max_steps": 3, "batch_size": 8},
              "max_length": 128, "target_max_length": 48}  # fmt: skip
    for arm, how in (("online", {"from": "online"}), ("top-k", {"from": "cached", "form": "top-k"})):
        made = {**values, "reference": {"model": str(large), **how}, "output": f"memory-{arm}"}
        (out / f"memory-{arm}.json").write_text(json.dumps(made), "utf-8")  # JSON is YAML
        verbs = (["cache"] if arm != "online" else []) + ["train"]
        for verb in verbs:
            more = ["--overwrite"] if verb == "train" and (out / f"memory-{arm}").is_dir() else []
            command = [sys.executable, "-m", "keeltune", verb, str(out / f"memory-{arm}.json"), *more]
            subprocess.run(command, check=True, capture_output=True)
        result = json.loads((out / f"memory-{arm}" / "result.json").read_text("utf-8"))
        print(
            f"| memory | {arm} | | {result['training']['peak_memory_bytes'] / 2**20:.0f} MiB at the peak | | |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*CASES, *PARTS], default=[*CASES, *PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    out = options.output.resolve()
    print("| case | arm | seconds | beside plain (rounds) | bytes a prediction | precision |")
    print("| --- | --- | ---: | --- | ---: | --- |")
    for name in options.only:
        if name in PARTS:
            PARTS[name](options.data.resolve(), out)
            continue
        rows_of(name, options.data.resolve(), out)
        epochs(name, out, options.rounds)
        if CASES[name].forms:
            capture(name, out, options.rounds)


PARTS = {"lost": lost, "memory": memory}


if __name__ == "__main__":
    main()
