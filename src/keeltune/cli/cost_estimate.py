"""What a training will cost, from sizes alone: no weight is loaded."""

from __future__ import annotations

from keeltune.training.preparation.material import SCORED, Material
from keeltune.training.preparation.sizes import student_sizes
from keeltune.training.reference_holding import held_in
from keeltune.training.regularization import forward_passes, regularizers_of
from keeltune.utils.device import choose_precision, matmul_flops, this_device
from keeltune.utils.distributed import world_size

EFFICIENCY = 0.3
"""Share of a matrix product's speed that a whole training step reaches; measured with MiniLM on two cores."""


def estimate(material: Material) -> dict[str, float]:
    """Steps, seconds and bytes that training will take: rough, from the sizes alone, no weight loaded.

    Seconds: 6 operations a weight and token for the student's forward and backward pass, 2 for each forward pass of a
    reference, at a share of this machine's timed matrix product. Bytes: 16 a trained weight (weight, gradient, Adam's
    two moments), 4 a reference's (2 in bfloat16), and the activations of the longest step.
    """
    recipe = material.recipe
    device = this_device()
    precision = choose_precision(recipe.training.precision, device)
    whole, body, depth, width = student_sizes(material)
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
    most = max(lengths + [length for stream in streams.values() for length in stream])
    longest = material.batch_size * most * (1 + sum(ratios[name] for name in streams))
    activations = longest * depth * width * (40 if precision == "bf16" else 70) * passes
    trained = whole * (0.1 if recipe.training.lora else 1)
    stored = 16 + 4 * sum(r.copies for r in regularizers)
    of_references = sum(dtype.itemsize for dtype in held_in(material, precision))
    memory = stored * trained + whole * of_references + activations + 6e8
    return {"steps": material.steps, "seconds": seconds, "memory_bytes": memory}
