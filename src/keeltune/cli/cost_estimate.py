"""What a training will cost, from sizes alone: no weight is loaded."""

from __future__ import annotations

from typing import Any

from keeltune.training.memory_estimate import memory_estimate
from keeltune.training.preparation.material import SCORED, Material
from keeltune.training.preparation.sizes import student_sizes
from keeltune.training.regularization import forward_passes, regularizers_of
from keeltune.utils.device import choose_precision, matmul_flops, this_device
from keeltune.utils.distributed import world_size

EFFICIENCY = 0.3
"""Share of a matrix product's speed that a whole training step reaches; measured with MiniLM on two cores."""


def estimate(material: Material, student: Any) -> dict[str, float]:
    """Steps, seconds and bytes that training will take: rough, from the sizes alone, no weight loaded.

    `student`: its skeleton.

    Seconds: 6 operations a weight and token for the student's forward and backward pass, 2 for each forward pass of a
    reference, at a share of this machine's timed matrix product. Bytes: `memory_estimate`.
    """
    recipe = material.recipe
    device = this_device()
    precision = choose_precision(recipe.training.precision, device)
    body = student_sizes(material).body
    lengths = [example.length for example in material.main_stream]
    step_size = material.batch_size * material.micro_batches
    ratios = material.stream_ratios
    streams = {name: [example.length for example in material.examples[name]] for name in ratios}
    mean = sum(lengths) / len(lengths)
    tokens = material.steps * step_size * mean * 1.05
    for name, stream in streams.items():
        tokens += material.steps * step_size * ratios[name] * sum(stream) / len(stream) * 1.3
    references = max(len(material.references), int(material.reference_is_start))
    regularizers = regularizers_of(recipe)
    passes, repetitions = forward_passes(regularizers), sum(r.repeats for r in regularizers)
    operations = tokens * body * (6 * (passes + repetitions) + 2 * references * (1 + repetitions))
    scored = sum(e.length * material.scale(s) for s in SCORED for e in material.examples[s])
    scored += sum(e.length for test in material.named_tests for row in test.encoded for e in row)
    seconds = operations / (EFFICIENCY * matmul_flops(precision, device) * world_size())
    seconds += 4 * scored * body / (EFFICIENCY * matmul_flops("fp32", device))
    memory = memory_estimate(material, student, precision).total
    return {"steps": material.steps, "seconds": seconds, "memory_bytes": memory}
