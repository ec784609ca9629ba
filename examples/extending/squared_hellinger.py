"""A divergence of your own: one function in a module of your own package.

objective: {divergence: "my_package.squared_hellinger:squared_hellinger", weight: 1.0}
"""

from torch import Tensor


def squared_hellinger(student: Tensor, reference: Tensor) -> Tensor:
    """½ Σ (√p − √q)², p the student, q the reference: between 0 and 1, without a unit.

    Args: log-probabilities `student`, `reference` [N, C]. Returns [N].
    Source: Hellinger 1909, https://doi.org/10.1515/crll.1909.136.210.
    """
    return 0.5 * ((0.5 * student).exp() - (0.5 * reference).exp()).square().sum(-1)
