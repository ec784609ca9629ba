"""Which method fits this data: feasibility by logic, evidence by short paired runs, a verdict with its probability."""

from __future__ import annotations

from keeltune.advisor.race import advise as advise

__all__ = ["advise"]
