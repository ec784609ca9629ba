"""A model that says numbers is held against always their mean, as one that says classes is against the commonest."""

from __future__ import annotations

import pytest

from keeltune.evaluation.beyond_the_mean import beyond_the_mean


@pytest.mark.parametrize(
    ("train", "validation", "low", "steps", "lights"),
    [
        (0.8, 0.7, 0.5, 300, ["green", "green"]),
        (0.01, -0.1, -1.2, 300, ["red", "amber"]),
        (0.01, -0.1, -1.2, 16, ["amber", "amber"]),
        (0.9, -0.2, -0.5, 300, ["green", "red"]),
        (0.5, 0.3, -0.1, 300, ["green", "amber"]),
    ],
)
def test_lights(train, validation, low, steps, lights):
    signs = beyond_the_mean(train, validation, low, steps)
    assert [sign.name for sign in signs] == ["learnt", "beyond chance"]
    assert [sign.light for sign in signs] == lights
    assert ("belong together" in signs[1].said) == (lights[1] == "red")
