"""The loss of a vocabulary head beside transformers' own: seconds and memory of forward and backward.

    python benchmarks/vocabulary_loss.py [--vocabularies 32000 262144] [--rows 1024] [--width 256] [--rounds 3] [--bf16]

Each cell has N predictions, a hidden row of H each and a linear head of V outputs; both sides make the loss and the
gradients of the hidden rows and the head. `CE` is transformers' `ForCausalLMLoss` on all logits; `CE + D` is what a
distillation by hand adds to it: `kl_div` with a teacher's logits, which are at hand (D is KL(p ‖ q), p the student).
Seconds are those of the process's own CPU time on one thread, in turns, the fastest of each: other processes hardly
touch them. MiB are the most bytes alive at once of what the step allocates, gradients among them.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers.loss.loss_utils import ForCausalLMLoss

from keeltune.objective.formula import Counts, Objective
from keeltune.objective.predictions import Dense, Projected, sliced_cross_entropy


def steps(vocabulary: int, rows: int, width: int, divergence: bool, bf16: bool) -> dict[str, Callable[[], None]]:
    """What is measured, by its name."""
    random = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if bf16 else torch.float32
    head = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    inputs = torch.randn(rows, width, generator=random).to(dtype)
    targets = torch.randint(vocabulary, (rows,), generator=random)
    teacher = torch.randn(rows, vocabulary, generator=random) if divergence else None

    def fresh() -> Tensor:
        return inputs.clone().requires_grad_()

    def stock() -> None:
        logits = head(fresh())
        loss: Tensor = ForCausalLMLoss(logits[None], None, vocabulary, shift_labels=targets[None])
        if teacher is not None:
            log_p, log_q = logits.float().log_softmax(-1), teacher.log_softmax(-1)
            loss = loss + functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        loss.backward()
        head.weight.grad = None

    def ours() -> None:
        reference = None if teacher is None else Dense(teacher)
        counts = Counts(rows, rows)
        student = Projected(fresh(), head)
        Objective()(sliced_cross_entropy(targets), student, reference, counts=counts).loss.backward()
        head.weight.grad = None

    return {"transformers": stock, "keeltune": ours}


def measured(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """(seconds, MiB) of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    mib = {}
    for name, run in runs.items():
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            run()
        events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
        mib[name] = max(itertools.accumulate(sizes)) / 2**20
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: (min(seconds[name]), mib[name]) for name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 49_152, 128_256, 262_144])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="weights and hidden rows in bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"N = {options.rows}, H = {options.width}, {'bfloat16' if options.bf16 else 'float32'}\n")
    print("| V | loss | transformers s | keeltune s | ratio | transformers MiB | keeltune MiB |")
    print("|" + " --- |" * 7)
    for vocabulary in options.vocabularies:
        for divergence in (False, True):
            runs = steps(vocabulary, options.rows, options.width, divergence, options.bf16)
            (theirs, their_mib), (ours, our_mib) = measured(runs, options.rounds).values()
            cells = [f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}", f"{their_mib:.0f}", f"{our_mib:.0f}"]
            print(f"| {vocabulary:,} | {'CE + D' if divergence else 'CE'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
