"""The contract of a matching term, and the module that pairs the student's layers with the teacher's.

    L = Σ CE / n_CE + weight · Σ D / n_D + Σ_terms w · Σ_b M_b / n_B

M_b compares what the models compute inside, for example b: a mean over its own positions, so that neither padding nor
the other examples of a batch change it, and n_B counts the examples of the whole optimizer step.

A file in this folder with one final class is at once a name of `objective.matching`; outside the package:
`my_package.my_module:Name`.

    objective: {matching: {cosine: 1.0}}

    class Cosine(Term):
        output = "hidden_states"
        projected = True

        @staticmethod
        def distance(student, reference, real):
            distance = 1 - torch.cosine_similarity(student, reference, dim=-1)      # [B, T]
            return (distance * real).sum(-1) / real.sum(-1).clamp_min(1)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from keeltune.objective import host_counts
from keeltune.objective.log_probs import full_precision

STACKS = ("", "encoder_", "decoder_")
"""What the names of a model's outputs start with: a single stack of layers, or those of an encoder-decoder."""


class Term(ABC):
    """One way to compare two models' layers. A class declares `output` and `projected`, and defines `distance`."""

    output: ClassVar[str]
    """The model output that is compared, a tuple with an entry a layer: `hidden_states` or `attentions`."""

    projected: ClassVar[bool]
    """Whether a student of another width gets a linear map to the teacher's."""

    def __init_subclass__(cls) -> None:
        for declared in ("output", "projected"):
            if not hasattr(cls, declared):
                raise TypeError(f"{cls.__name__} declares no {declared}; see {__name__}")

    @staticmethod
    @abstractmethod
    def distance(student: Tensor, reference: Tensor, real: Tensor) -> Tensor:
        """Of one pair of layers: [B, …, T, …] twice, and the real positions [B, T] bool -> [B], 0 where they agree."""


class Unmatched(ValueError):
    """The two models have nothing that could be compared; the message says what was found and expected."""


class Matching(nn.Module):
    """The terms of a recipe with their weights, and the projections that are learned with the student.

    Args:
        terms: the weight of each term. student, teacher: both models' outputs on one batch, from which the layers are
            paired and the projections made; `requesting` made that batch.
    Raises: Unmatched, where the numbers of positions differ (another tokenizer, other patches), or there are no layers.
    """

    def __init__(self, terms: Mapping[Term, float], student: Any, teacher: Any):
        super().__init__()
        self.terms = dict(terms)
        self.projections = nn.ModuleDict()
        for term in self.terms:
            pairs = list(_pairs(term, student, teacher))
            if not pairs:
                raise Unmatched(f"found no {term.output} in what the two models return, expected those of each layer")
            for name, of_student, of_teacher in pairs:
                width, wanted = of_student.shape[-1], of_teacher.shape[-1]
                if _positions(of_student) != _positions(of_teacher) or not (term.projected or width == wanted):
                    raise Unmatched(
                        f"found {name} of {list(of_student.shape)} in the student and {list(of_teacher.shape)} in the "
                        "teacher, expected as many positions: one tokenizer, patches of one size"
                    )
                if width != wanted and name not in self.projections:  # two terms of one output share its maps
                    dtype = full_precision(of_student).dtype
                    self.projections[name] = nn.Linear(width, wanted, bias=False, device=of_student.device, dtype=dtype)

    def attach(self, student: nn.Module) -> None:
        """Makes the projections parameters of the student, as `student.matching`.

        DDP wants each parameter used inside the forward pass; theirs are, with nothing taken of them.
        """

        def use(module: nn.Module, arguments: Any, outputs: Any) -> Any:
            nothing = [weight[..., :0].sum() for weight in self.parameters()]
            name = next((f"{s}hidden_states" for s in STACKS if getattr(outputs, f"{s}hidden_states", None)), None)
            if name is not None and nothing:
                first, *others = getattr(outputs, name)
                setattr(outputs, name, (first + torch.stack(nothing).sum().to(first.dtype), *others))
            return outputs

        student.add_module("matching", self)
        self._use = student.register_forward_hook(use)

    def detach(self, student: nn.Module) -> None:
        """Takes them off again, where they are on it: they were a means."""
        self._use.remove()
        student._modules.pop("matching", None)

    def requesting(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch, with the request that a model return what is compared."""
        return requesting(self.terms, batch)

    def attentions_sum_to_one(self, student: Any) -> bool:
        """Whether the attentions that are compared are distributions, as they are not under dropout."""
        compared = (term for term in self.terms if term.output == "attentions")
        layers = [layer for term in compared for _, layer, _ in _pairs(term, student, student)]
        return all(torch.allclose(layer.sum(-1), layer.new_ones(()), atol=1e-2) for layer in layers)

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Any]) -> Tensor:
        """Σ_terms w · Σ_b M_b of a micro-batch: a sum, in float32 at least. No gradient reaches the teacher."""
        total = []
        for term, weight in self.terms.items():
            values = []
            for name, of_student, of_teacher in _pairs(term, student, teacher):
                of_student, of_teacher = full_precision(of_student), full_precision(of_teacher.detach())
                if name in self.projections:
                    of_student = self.projections[name](of_student)
                values.append(term.distance(of_student, of_teacher, real(name, of_student, batch)))
            total.append(weight * torch.stack(values).mean(0).sum())
        return torch.stack(total).sum()


def requesting(terms: Iterable[Term], batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch, with the request that a model return what the terms compare."""
    requests = {f"output_{term.output}": True for term in terms}
    return {**batch, "inputs": {**batch["inputs"], **requests}}


def real(name: str, layer: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Which of a layer's T positions are no padding, [B, T] bool; all, where the batch has no mask for its stack.

    A shorter mask is that of a text behind a picture, a longer one that of a sound before it was made into frames.
    """
    length, inputs = _positions(layer), batch["inputs"]
    if name.startswith("decoder_"):
        mask = inputs.get("decoder_attention_mask", batch.get("predicted"))
    else:
        mask = inputs.get("attention_mask")
        framed = "counts" in batch and (mask is None or mask.shape[1] != length)
        if framed and max(host_counts.sizes(batch)) == length:
            mask = torch.arange(length, device=layer.device) < batch["counts"].to(layer.device)[:, None]
    if mask is None:
        return torch.ones(len(layer), length, dtype=torch.bool, device=layer.device)
    if mask.shape[1] > length:
        frames = (mask.sum(1, keepdim=True) * length / mask.shape[1]).ceil()
        return torch.arange(length, device=layer.device) < frames
    return torch.nn.functional.pad(mask.bool(), (length - mask.shape[1], 0), value=True)


def _pairs(term: Term, student: Any, teacher: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, the student's layer, the teacher's): the student's i of k with the teacher's round(i · K / k) of K."""
    for stack in STACKS:
        of_student, of_teacher = (_layers(outputs, f"{stack}{term.output}") for outputs in (student, teacher))
        embedded = int(term.output == "hidden_states")  # entry 0 is that of the embeddings
        few, many = len(of_student) - embedded, len(of_teacher) - embedded
        if few <= 0 or many <= 0:
            continue
        for i in range(1 - embedded, few + 1):
            partner = round(i * many / few) - 1 + embedded
            yield f"{stack}{term.output}_{i}", of_student[i - 1 + embedded], of_teacher[partner]


def _layers(outputs: Any, name: str) -> tuple[Tensor, ...]:
    """Also of outputs whose logits were selected; none of a batch whose rows did not share a forward pass."""
    calls = getattr(outputs, "outputs", [outputs])
    return tuple(getattr(calls[0], name, None) or ()) if len(calls) == 1 else ()


def _positions(layer: Tensor) -> int:
    """T of [B, T, H] or of [B, heads, T, U]."""
    return layer.shape[-2]
