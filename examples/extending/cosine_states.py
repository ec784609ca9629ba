"""A matching term of your own: one final class in a module of your own package.

objective: {matching: {"my_package.cosine_states:CosineStates": 1.0}}
"""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from keeltune.objective.matching.matching import Term


class CosineStates(Term):
    """The angle between hidden states: M_b = mean over layers and real positions t of 1 − cos(s_bt, r_bt).

    What counts is a state's direction and not its length. Source: DistilBERT, https://arxiv.org/abs/1910.01108.
    """

    output = "hidden_states"
    projected = True  # a student of another width gets a linear map to the teacher's

    @staticmethod
    def distance(student: Tensor, reference: Tensor, real: Tensor) -> Tensor:
        """[B, T, H], [B, T, H], [B, T] bool -> [B], between 0 and 2."""
        apart = 1 - cosine_similarity(student, reference, dim=-1)
        return (apart * real).sum(-1) / real.sum(-1).clamp_min(1)
