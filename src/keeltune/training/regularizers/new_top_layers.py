from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from keeltune.models.loading import Loaded
from keeltune.models.surgery import stacks


def new_top_layers(loaded: Loaded, auto_model: str, count: int, seed: int) -> Loaded:
    """A loaded model whose last `count` layers are as its architecture draws them, from `seed`; and so is its pooler.

    The top layers of a pretrained model serve its old task; drawn anew they make training on few rows steadier. Of an
    encoder and a decoder it is the decoder's layers. The weights count as fresh: the model before training is nothing
    to be scored, or held near.

    Source: Zhang et al. 2020, https://arxiv.org/abs/2006.05987 (section 5).
    """
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = getattr(transformers, auto_model).from_config(loaded.model.config, dtype=torch.float32).state_dict()
    own = loaded.model.state_dict()
    names = [name for name in own if any(name.startswith(f"{top}.") for top in _tops(loaded.model, count))]
    with torch.no_grad():
        for name in names:
            own[name].copy_(drawn[name])
    note = f"the last {count} layers start anew ({sum(own[name].numel() for name in names) / 1e6:.1f} M weights)"
    fresh = tuple(dict.fromkeys([*loaded.fresh, *names]))
    return Loaded(loaded.model, loaded.processor, loaded.source, fresh, (*loaded.notes, note))


def _tops(model: Any, count: int) -> Iterator[str]:
    """The names of the modules that are drawn anew: the last layers of the last stack, and the pooler."""
    stack, length = list(stacks(model).items())[-1]
    yield from (f"{stack}.{place}" for place in range(length - count, length))
    yield from (name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] == "pooler")
