"""`keeltune doctor`: the machine, versions, precision, and what is missing."""

from __future__ import annotations

import os
import platform

from rich.table import Table

from keeltune.models.libraries import extras, install
from keeltune.utils import registry
from keeltune.utils.collection import paused_collection
from keeltune.utils.terminal import Terminal


def doctor() -> None:
    """Machine, versions, precision, and what is missing."""
    with paused_collection():  # a second of torch, for which a shell that completes does not wait
        from keeltune.runs.environment import environment
        from keeltune.utils.device import DTYPES, choose_precision, device_note, matmul_flops, this_device

    device = this_device()
    table = Table("what", "found", show_header=False)
    for name, value in environment().items():
        if name != "finished":
            table.add_row(name, str(value))
            if name == "device" and (note := device_note()):
                table.add_row("", note)
    table.add_row("processor", f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for precision in DTYPES:
        table.add_row(f"matrix product, {precision}", f"{matmul_flops(precision, device) / 1e9:.0f} GFLOP/s")
    table.add_row("precision: auto", choose_precision("auto", device))
    table.add_row("tasks", ", ".join(registry.names("tasks")))
    table.add_row("divergences", ", ".join(registry.names("divergences")))
    for extra, packages in extras().items():
        table.add_row(f"extra: {extra}", ", ".join(f"{name} {found or 'missing'}" for name, found in packages.items()))
        if None in packages.values():
            table.add_row("", install(extra))
    Terminal().print(table)
