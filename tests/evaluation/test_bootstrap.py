"""The bootstrap in blocks of draws is the bootstrap."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from keeltune.evaluation import bootstrap

ROWS, DRAWS = 300, 40


def whole(statistics: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """All counts at once, as the definition has it."""
    rows = len(statistics)
    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=draws)
    return counts.astype(np.float64) @ statistics


@pytest.mark.parametrize("counts", [1, ROWS * 7, ROWS * DRAWS])
def test_the_draws_are_the_same_however_they_are_cut(counts, monkeypatch):
    monkeypatch.setattr(bootstrap, "COUNTS", counts)
    random = np.random.default_rng(3)
    right = random.integers(0, 2, (ROWS, 3)).astype(np.float64)  # sums of whole numbers are exact
    assert np.array_equal(bootstrap.bootstrap(right, DRAWS, 5), whole(right, DRAWS, 5))
    losses = random.normal(size=(ROWS, 2))
    np.testing.assert_allclose(bootstrap.bootstrap(losses, DRAWS, 5), whole(losses, DRAWS, 5), rtol=1e-12, atol=1e-12)


def test_what_fits_at_once_is_one_product_to_the_bit():
    losses = np.random.default_rng(3).normal(size=(ROWS, 5))
    assert np.array_equal(bootstrap.bootstrap(losses), whole(losses, bootstrap.RESAMPLES, 0))


def test_clusters_are_drawn_whole_in_blocks_too(monkeypatch):
    monkeypatch.setattr(bootstrap, "COUNTS", 20)
    clusters = np.arange(ROWS) // 30
    ones = np.ones((ROWS, 1))
    assert np.array_equal(bootstrap.bootstrap(ones, DRAWS, clusters=clusters), np.full((DRAWS, 1), float(ROWS)))


def test_memory_is_that_of_a_block(monkeypatch):
    monkeypatch.setattr(bootstrap, "COUNTS", 20_000)
    statistics = np.ones((10_000, 2))
    tracemalloc.start()
    try:
        bootstrap.bootstrap(statistics, 50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 20_000 * 8 + 10_000 * 16 + 100_000  # at once it would be 8 MB
