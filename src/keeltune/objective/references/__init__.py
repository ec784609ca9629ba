"""What the student is held near: one source a file, all behind `reference.Reference`."""

from __future__ import annotations

from keeltune.objective.references.adapter_off import AdapterOff
from keeltune.objective.references.ensemble import Ensemble
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.objective.references.served import Served

__all__ = ["AdapterOff", "Ensemble", "Model", "Reference", "Served"]
