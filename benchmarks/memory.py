"""Peak memory of one training step of whole models with a large vocabulary, beside transformers' own loss.

    python benchmarks/memory.py [--models marian llama …] [--predictions 512 1024 2048 4096] [--vocabulary 65536]

Each cell is a process of its own: a small random model of a real architecture, one micro-batch of N predictions
(N / 128 rows), forward and backward. `stock` is the model's own loss, `stock + reference` a distillation as it is
written by hand (the model's loss, and `kl_div` of the two models' logits); `keeltune` goes through the library's own
trainer, without and with a teacher. Peaks are MiB above what the process held before the step, so that the weights are
not in them; on a GPU as torch counts its allocations, on a CPU as Linux counts resident pages (VmHWM), which the
allocator makes uncertain by a slice or two (64 MiB each). Memory is the same on a busy machine; seconds are not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from keeltune import recipe
from keeltune.models import saving
from keeltune.recipe.training_fields import Training
from keeltune.tasks.common.batches import to_device
from keeltune.training import build
from keeltune.training.arguments import training_arguments
from keeltune.training.job import Job
from keeltune.training.preparation import prepare
from keeltune.training.step_loss import step_loss
from keeltune.training.trainer import KeelTrainer
from keeltune.utils.progress import Display

ROW = 128
"""Predictions of a row."""
WORDS = [
    "the",
    "film",
    "was",
    "long",
    "and",
    "dull",
    "but",
    "its",
    "end",
    "is",
    "very",
    "good",
    "and",
    "not",
    "bad",
    "at",
    "all",
]
STACK = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}  # fmt: skip
LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512}  # fmt: skip
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}
VIT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
       "image_size": 32, "patch_size": 8}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("translation", {**STACK, "max_position_embeddings": 512}),
    "t5": ("summarization", {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2}),
    "gpt2": ("text-generation", GPT2),
    "llama": ("text-generation", LLAMA),
    "gemma2": ("text-generation", LLAMA),
    "whisper": ("speech-recognition", {**STACK, "num_mel_bins": 20, "max_source_positions": 100,
                                       "max_target_positions": 256}),
    "vision-encoder-decoder": ("image-captioning", {"encoder": {"model_type": "vit", **VIT},
                                                    "decoder": {"model_type": "gpt2", **GPT2}}),
}  # fmt: skip
HOWS = ("stock", "keeltune", "stock + reference", "keeltune + reference")
QUIET = Display(quiet=True)


def rows(task: str, folder: Path, count: int) -> str:
    """A data file of `count` rows whose targets are longer than `ROW` tokens."""
    random = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for i in range(count):
        short, long = " ".join(random.choice(WORDS, 8)), " ".join(random.choice(WORDS, 2 * ROW))
        if task == "speech-recognition":
            with wave.open(str(folder / f"{i}.wav"), "wb") as file:
                file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
                file.writeframes((3000 * random.standard_normal(8000)).astype(np.int16).tobytes())
            lines.append({"audio": f"{i}.wav", "text": long})
        elif task == "image-captioning":
            from PIL import Image

            Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
            lines.append({"image": f"{i}.png", "captions": [long]})
        else:
            names = {"translation": ("source", "target"), "summarization": ("document", "summary"),
                     "text-generation": ("prompt", "completion")}[task]  # fmt: skip
            lines.append(dict(zip(names, (short, long), strict=True)))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return "train.jsonl"


def job_of(name: str, folder: Path, count: int, seed: int = 0, **values: Any) -> Job:
    task, _ = MODELS[name]
    values = {
        "task": task, "data": {"train": rows(task, folder, count)}, "target_max_length": ROW, "output": "out",
        "training": {"precision": "fp32", "batch_size": count, "seed": seed},
        "generation": {"max_new_tokens": ROW}, **values,
    }  # fmt: skip
    return build.build(prepare.prepare(recipe.from_dict(values, folder)), QUIET)


def save_model(name: str, folder: Path, seed: int, vocabulary: int) -> None:
    """A random model with a vocabulary larger than its tokenizer's; a bias behind the head as checkpoints have it."""
    new = {"new": {"model_type": name, **MODELS[name][1]}, "tokenizer": {"train": "bpe", "size": 300}}
    job = job_of(name, folder, 4, method="fine-tuning", model=new, seed=seed)
    model = job.model
    try:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    except NotImplementedError:  # a model of two models
        model.decoder.resize_token_embeddings(vocabulary, mean_resizing=False)
        model.config.decoder = model.decoder.config
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    saving.save(model, job.material.task.processor, folder / f"model-{seed}")


def step(job: Job, how: str, folder: Path) -> Callable[[dict[str, Any]], torch.Tensor]:
    """What makes the loss of a micro-batch."""
    if how.startswith("keeltune"):
        training = Training(epochs=1, learning_rate=1e-4, save_strategy="no")
        arguments = training_arguments(folder / "run", training, batch_size=1, every=None, seed=0)
        task = job.material.task
        trainer = KeelTrainer(job.model, arguments, job.plan, step_loss(job))
        return lambda batch: trainer.compute_loss(
            job.model,
            batch,
            num_items_in_batch=torch.tensor([*task.counts(batch), len(batch["keys"])], device=job.device),
        )

    def stock(batch: dict[str, Any]) -> torch.Tensor:
        inputs, places = batch["inputs"], batch["predicted"]
        labels = torch.full(places.shape, -100, device=places.device)
        labels[places] = batch["targets"]
        if "decoder_input_ids" not in inputs:  # a decoder shifts its labels itself
            labels = torch.cat([torch.full_like(labels[:, :1], -100), labels[:, :-1]], dim=1)
        outputs = job.model(**inputs, labels=labels)
        if job.reference is None:
            return outputs.loss
        with torch.no_grad():
            teacher = job.reference.model(**inputs).logits[places].log_softmax(-1)
        student = outputs.logits[places].log_softmax(-1)
        return outputs.loss + functional.kl_div(teacher, student, log_target=True, reduction="batchmean")

    return stock


def measured(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds, and the peak in MiB above what was held before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        run()
        torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - start, "mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before, start = _resident("VmRSS"), time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mib": (_resident("VmHWM") - before) / 2**10}


def _resident(name: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def cell(name: str, n: int, how: str, folder: Path) -> dict[str, float]:
    method: dict[str, Any] = {"method": "fine-tuning"}
    if how.endswith("reference"):
        method = {"method": "distillation", "reference": "model-1"}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for seed in (0, 1):
            (Path(own) / f"model-{seed}").symlink_to(folder / f"model-{seed}", target_is_directory=True)
        job = job_of(name, Path(own), n // ROW, model="model-0", **method)
        job.model.train()
        loss_of = step(job, how, Path(own))
        examples = job.plan.examples
        task = job.material.task
        loss_of(to_device(task.collate(examples[:1]), job.device)).backward()  # warm-up, of one row
        job.model.zero_grad()
        batch = to_device(task.collate(examples), job.device)
        if len(batch["targets"]) != n:
            raise RuntimeError(f"found {len(batch['targets'])} predictions, expected {n}")
        return measured(lambda: loss_of(batch).backward(), job.device)


def table(names: list[str], predictions: list[int], vocabulary: int, hows: list[str]) -> None:
    titles = [f"{how} {unit}" for unit in ("MiB", "s") for how in hows]
    print("| " + " | ".join(["model", "N", "N × V MiB", *titles]) + " |")
    print("|" + " --- |" * (3 + len(titles)))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for seed in (0, 1):
                save_model(name, Path(folder), seed, vocabulary)
            for n in predictions:
                found = []
                for how in hows:
                    call = [sys.executable, __file__, "--cell", name, str(n), how, folder]
                    done = subprocess.run(call, capture_output=True, text=True)
                    if done.returncode:
                        raise RuntimeError(f"{name}, N = {n}, {how}: {done.stderr[-3000:]}")
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                cells = [f"{f['mib']:.0f}" for f in found] + [f"{f['seconds']:.1f}" for f in found]
                print("| " + " | ".join([name, str(n), str(n * vocabulary * 4 // 2**20), *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--predictions", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    parser.add_argument("--vocabulary", type=int, default=65_536)
    parser.add_argument("--hows", nargs="+", choices=HOWS, default=list(HOWS))
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.cell:
        name, n, how, folder = options.cell
        print(json.dumps(cell(name, int(n), how, Path(folder))))
    else:
        table(options.models, options.predictions, options.vocabulary, options.hows)


if __name__ == "__main__":
    main()
