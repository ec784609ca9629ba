"""What is remembered of torch's operations on the meta device is what they give."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keeltune.training import meta_shapes


class Remembering(TorchDispatchMode):
    """Within: operations are looked up."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return meta_shapes.shapes_of(func, args, kwargs or {})


def described(values):
    values = [values] if isinstance(values, torch.Tensor) else values
    return [(v.shape, v.stride(), v.dtype, v.device.type, v.untyped_storage().nbytes()) for v in values]


def tensor(*sizes, **options):
    return torch.empty(*sizes, device="meta", **options)


OPERATIONS = {
    "sum with a number": lambda: tensor(3, 4) + 1,
    "sum with another number": lambda: tensor(3, 4, dtype=torch.long) + 1.5,
    "broadcast": lambda: tensor(3, 1, 5) * tensor(4, 1, dtype=torch.float64),
    "of a transposed one": lambda: tensor(5, 3).t() @ tensor(5, 2),
    "comparison": lambda: tensor(3) > 0,
    "half precision": lambda: tensor(2, 3, dtype=torch.bfloat16).softmax(-1),
    "several": lambda: tensor(4, 6).topk(2),
    "layer norm": lambda: torch.nn.functional.layer_norm(tensor(2, 6), (6,), tensor(6), tensor(6)),
    "joined": lambda: torch.cat([tensor(2, 3), tensor(4, 3)]),
    "a copy as channels last": lambda: tensor(2, 3, 4, 4).clone(memory_format=torch.channels_last),
    "another type": lambda: tensor(2, 3).to(torch.float16),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_remembered_is_what_torch_gives(name):
    make = OPERATIONS[name]
    expected = described(make())
    meta_shapes._known.clear()
    for _ in range(2):
        with Remembering():
            assert described(make()) == expected


def test_the_second_time_torch_is_not_asked():
    asked = []

    def counted(*args, **kwargs):
        asked.append(args)
        return torch.ops.aten.mul.Tensor(*args, **kwargs)

    counted._schema = torch.ops.aten.mul.Tensor._schema
    a, b = tensor(3, 4), tensor(4)
    for _ in range(3):
        assert meta_shapes.shapes_of(counted, (a, b), {}).shape == (3, 4)
    assert len(asked) == 1
    meta_shapes.shapes_of(counted, (a, tensor(4, dtype=torch.float64)), {})
    assert len(asked) == 2


def test_views_and_changes_in_place_are_made_each_time():
    whole = tensor(4, 6)
    with Remembering():
        for _ in range(2):
            assert whole.view(6, 4).untyped_storage()._cdata == whole.untyped_storage()._cdata
            assert whole.add_(1) is whole


def test_numbers_are_computed():
    with Remembering():
        assert [(torch.ones(2) + n).tolist() for n in (1, 2)] == [[2.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_have_the_shapes_of_their_weights(shared):
    first = torch.nn.Linear(3, 3, device="meta")
    second = first if shared else torch.nn.Linear(3, 3, device="meta")
    for _ in range(2):
        with Remembering():
            second(first(tensor(5, 3)).relu()).square().mean().backward()
        assert {w.grad.shape for w in first.parameters()} == {w.shape for w in first.parameters()}
