"""What the student is held near: one source a file, all behind `reference.Reference`."""

from keeltune.references.adapter_off import AdapterOff
from keeltune.references.ensemble import Ensemble
from keeltune.references.model import Model
from keeltune.references.reference import Reference
from keeltune.references.served import Served

__all__ = ["AdapterOff", "Ensemble", "Model", "Reference", "Served"]
