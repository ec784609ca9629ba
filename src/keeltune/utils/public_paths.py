"""`keeltune.divergences` and `keeltune.references`: public import paths of shelves that lie in `keeltune.objective`.

`from keeltune.divergences.reverse_kl import reverse_kl` reads the very module of that name in
`keeltune.objective.divergences`, not a second copy of it, and imports nothing before it is asked to.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SHELVES = ("divergences", "references")


class PublicPath(MetaPathFinder, Loader):
    """Finds `keeltune.SHELF…` as `keeltune.objective.SHELF…`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = fullname.split(".")
        if parts[0] != "keeltune" or len(parts) < 2 or parts[1] not in SHELVES:
            return None
        return ModuleSpec(fullname, self, is_package=len(parts) == 2)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.replace("keeltune.", "keeltune.objective.", 1))
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name, whose spec it keeps; so were the files that it has imported by then.

        Found again one by one, each would be bound to its name in the package, where a function stands: `reverse_kl`.
        """
        module.__spec__ = self.own_spec
        for name, loaded in list(sys.modules.items()):
            if name.startswith(f"{module.__name__}."):
                sys.modules[name.replace("keeltune.objective.", "keeltune.", 1)] = loaded


def install() -> None:
    """Once a process."""
    if not any(isinstance(finder, PublicPath) for finder in sys.meta_path):
        sys.meta_path.insert(0, PublicPath())  # before the finder of files, which would load a second copy
