"""A frozen base in four bits a weight, by bitsandbytes: asked for, refused where it cannot be, and taken out again.

What is quantised are the linear layers of the base model: NF4 with its scales quantised once more, computed in bfloat16
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314). Heads, embeddings and norms are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from keeltune.models import shared_weights
from keeltune.models.libraries import installed
from keeltune.utils.errors import Problem

LIBRARY = "bitsandbytes"


def four_bit_problem(where: str) -> Problem | None:
    """Why this machine holds no base in four bits, or None; nothing is loaded for it."""
    lacking = []
    if not torch.cuda.is_available():
        lacking.append(("no GPU (CUDA) is here", "write base: bf16"))
    if not installed(LIBRARY):
        lacking.append((f"{LIBRARY} is not installed", "pip install 'keeltune[4bit]'"))
    if not lacking:
        return None
    found, fixes = (" and ".join(words) for words in zip(*reversed(lacking), strict=True))
    return Problem(where, "training.lora.base", f"4bit, and {found}", f"a GPU, and {LIBRARY} beside it", fixes)


def quantization(skeleton: Any) -> Any:
    """What `from_pretrained` is told to quantise of a model, which is given without its weights."""
    from transformers import BitsAndBytesConfig

    heads = [name for name, _ in skeleton.named_children() if name != skeleton.base_model_prefix]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*heads, "pooler", "lm_head"],
    )


def in_full(weight: Tensor) -> Tensor:
    """The numbers that a weight of a model stands for, in float32."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().float()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state).float()


@torch.no_grad()
def take_out(plain: nn.Module, model: nn.Module) -> None:
    """`plain`, the same model in float32, gets the numbers that the frozen weights of `model` stand for."""
    places = dict(plain.named_parameters(remove_duplicate=False))
    for name, weight in shared_weights.frozen_weights(model):
        places[name].copy_(in_full(weight))
