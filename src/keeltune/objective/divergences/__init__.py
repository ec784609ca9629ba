"""How nearness is measured: one function a file, log-probabilities [N, C] of the student and the reference -> [N] nats.

Every file beside the contract (`divergence.py`) is a divergence: `kt.divergences.reverse_kl(student, reference)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keeltune.utils import registry

if TYPE_CHECKING:
    from keeltune.objective.divergences.forward_kl import forward_kl as forward_kl
    from keeltune.objective.divergences.jensen_shannon import jensen_shannon as jensen_shannon
    from keeltune.objective.divergences.logit_mse import logit_mse as logit_mse
    from keeltune.objective.divergences.reverse_kl import reverse_kl as reverse_kl
    from keeltune.objective.divergences.skewed_kl import skewed_kl as skewed_kl
    from keeltune.objective.divergences.skewed_reverse_kl import skewed_reverse_kl as skewed_reverse_kl
    from keeltune.objective.divergences.total_variation import total_variation as total_variation

for _name in registry.names("divergences"):  # importing a file binds its module to the name; the function replaces it
    globals()[_name.replace("-", "_")] = registry.find("divergences", _name)
