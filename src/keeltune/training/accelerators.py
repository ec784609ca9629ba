"""Accelerators for which a training is planned, as their vendors state them.

Peaks are dense products of bfloat16 (data sheets often state twice as much, with structured sparsity). Links are the
sum of both directions, as vendors have it. Memory is in GB of 10⁹ bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keeltune.utils.errors import Problem, UserError


@dataclass(frozen=True)
class Accelerator:
    """`memory`, bytes; `peak`, operations a second in dense bf16; `bandwidth` of its memory and `link` to its
    neighbours, bytes a second."""

    name: str
    memory: float
    peak: float
    bandwidth: float
    link: float


def _of(name: str, gigabytes: float, teraflops: float, bandwidth: float, link: float) -> Accelerator:
    return Accelerator(name, gigabytes * 1e9, teraflops * 1e12, bandwidth * 1e9, link * 1e9)


ACCELERATORS = {
    one.name: one
    for one in (
        # GB, dense bf16 TFLOP/s, memory GB/s, link GB/s
        _of("A100", 80, 312, 2039, 600),  # NVIDIA A100 80GB SXM data sheet; NVLink 3
        _of("H100", 80, 989, 3350, 900),  # NVIDIA H100 SXM data sheet: 1,979 with sparsity; NVLink 4
        _of("H200", 141, 989, 4800, 900),  # NVIDIA H200 SXM data sheet: 1,979 with sparsity; NVLink 4
        _of(
            "B200", 180, 2250, 7700, 1800
        ),  # NVIDIA DGX B200 data sheet, an eighth of it: 4,500 with sparsity; NVLink 5
        _of("L4", 24, 121, 300, 64),  # NVIDIA L4 data sheet: 242 with sparsity; PCIe 4 x16
        _of("L40S", 48, 362, 864, 64),  # NVIDIA L40S data sheet: 733 with sparsity; PCIe 4 x16
        _of("RTX4090", 24, 165, 1008, 64),  # NVIDIA Ada architecture whitepaper, float32 accumulation; PCIe 4 x16
        _of("MI300X", 192, 1307, 5300, 896),  # AMD Instinct MI300X data sheet; Infinity Fabric
    )
}


def planned(text: str) -> tuple[int, Accelerator]:
    """`8xH100` as a number and an accelerator. UserError where it is none of the table's."""
    found = re.fullmatch(r"([1-9]\d{0,5})x(\w+)", text)
    names = {name.lower(): one for name, one in ACCELERATORS.items()}
    if found is None or found[2].lower() not in names:
        expected = f"a number, x and one of {', '.join(ACCELERATORS)}: 8xH100"
        raise UserError(Problem("the call", "--plan", text, expected, "write --plan 8xH100, say"))
    return int(found[1]), names[found[2].lower()]
