"""The plan: every row once, steps that are the same however cut, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from keeltune.tasks.common.batches import by_length, rows_at_once
from keeltune.tasks.common.example import Example
from keeltune.tasks.common.settings import Settings
from keeltune.training.batch_plan import Plan, Stream


def examples(n: int, prefix: str = "r", seed: int = 0) -> list[Example]:
    lengths = np.random.default_rng(seed).integers(1, 60, n)
    return [Example({}, [0], [1.0], f"{prefix}{i}", int(length)) for i, length in enumerate(lengths)]


def collate(rows):
    return {"keys": [row.key for row in rows], "inputs": {"input_ids": torch.zeros(len(rows), 1)}}


def plan(n=23, *, size=8, cuts=2, seed=0, streams=()) -> Plan:
    return Plan(examples(n), streams, batch_size=size // cuts, micro_batches=cuts, seed=seed, collate=collate)


def steps(plan: Plan, epoch: int = 0) -> list[list[list[str]]]:
    """Keys by step and micro-batch."""
    plan.set_epoch(epoch)
    keys = [plan[i]["keys"] for i in range(len(plan))]
    return [keys[i : i + plan.micro_batches] for i in range(0, len(keys), plan.micro_batches)]


def flat(step: list[list[str]]) -> list[str]:
    return [key for micro in step for key in micro]


@settings(max_examples=80, deadline=None)
@given(n=st.integers(4, 90), epoch=st.integers(0, 5), seed=st.integers(0, 10))
def test_every_row_once_in_even_steps_that_are_the_same_however_cut(n, epoch, seed):
    cut = {cuts: steps(plan(n, size=8, cuts=cuts, seed=seed), epoch) for cuts in (1, 2, 4)}
    for found in cut.values():
        assert len(found) == max(1, n // 8)
        assert sorted(key for step in found for key in flat(step)) == sorted(f"r{i}" for i in range(n))
        sizes, micro = [len(flat(step)) for step in found], [len(m) for step in found for m in step]
        assert max(sizes) - min(sizes) <= 1
        assert max(micro) - min(micro) <= 1
        assert min(micro) >= 1
    whole = [flat(step) for step in cut[1]]
    assert whole == [flat(step) for step in cut[2]] == [flat(step) for step in cut[4]]


def test_order_is_a_function_of_seed_and_epoch_and_nothing_else():
    first = steps(plan(seed=3), 2)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    again = plan(seed=3)
    steps(again, 5)
    assert steps(again, 2) == first
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())
    assert steps(plan(seed=4), 2) != first
    assert steps(plan(seed=3), 1) != first


def test_a_step_holds_rows_of_similar_length_and_its_company_changes():
    lengths = {e.key: e.length for e in examples(400)}
    big = plan(400)
    spread = [np.ptp([lengths[k] for k in flat(step)]) for step in steps(big)]
    assert np.mean(spread) < 6  # of 59 in all
    companies = [{frozenset(flat(step)) for step in steps(big, epoch)} for epoch in (0, 1)]
    assert len(companies[0] & companies[1]) < len(companies[0]) / 2


def test_fewer_rows_than_micro_batches_is_refused():
    with pytest.raises(ValueError, match="found 3 rows for 4 micro-batches a step"):
        plan(3, cuts=4)


# Streams


def pool(n: int, per_step: float, name: str = "unlabelled") -> Stream:
    return Stream(name, examples(n, "u", seed=1), per_step)


def drawn(plan: Plan, epochs: int) -> list[list[str]]:
    return [[k for k in flat(step) if k.startswith("u")] for e in range(epochs) for step in steps(plan, e)]


@pytest.mark.parametrize("per_step", [0.3, 1.0, 2.5, 3.7, 20.0])
@pytest.mark.parametrize("cuts", [1, 4])
def test_a_stream_goes_round_without_replacement_and_carries_on_across_epochs(per_step, cuts):
    n, found = 11, drawn(plan(23, cuts=cuts, streams=[pool(11, per_step)]), 12)
    assert [len(step) for step in found] == [round((k + 1) * per_step) - round(k * per_step) for k in range(len(found))]
    keys = [key for step in found for key in step]
    for start in range(0, len(keys), n):
        part = keys[start : start + n]
        assert len(set(part)) == len(part)  # within a round no row comes twice
        assert len(part) < n or set(part) == {f"u{i}" for i in range(n)}
    if len(keys) >= 2 * n and per_step < n:
        assert keys[:n] != keys[n : 2 * n]


def test_a_stream_is_the_same_however_cut_and_asked():
    by_two = drawn(plan(23, streams=[pool(11, 2.5)]), 4)
    elsewhere = plan(23, streams=[pool(11, 2.5)])
    assert [k for k in flat(steps(elsewhere, 3)[1]) if k.startswith("u")] == by_two[3 * 2 + 1]  # asked out of order
    cut = drawn(plan(23, cuts=4, streams=[pool(11, 2.5)]), 4)
    assert cut == by_two


@pytest.mark.parametrize("per_step", [2.5, 8.0, 20.0])
def test_short_rows_of_a_stream_join_short_ones(per_step):
    """A batch is padded to its longest row; drawn without regard to that, three tenths of it were padding."""
    made = Plan(examples(200), [Stream("pool", examples(150, "u", seed=1), per_step)], batch_size=8, micro_batches=1,
                seed=0, collate=collate)  # fmt: skip
    batches = [
        [row.length for row in made.micro_batch(epoch, step, 0)] for epoch in range(6) for step in range(made.steps)
    ]
    used = sum(map(sum, batches)) / sum(max(batch) * len(batch) for batch in batches)
    assert used > 0.8


@pytest.mark.parametrize("cuts", [1, 2, 4])
def test_the_labelled_rows_do_not_know_of_the_streams(cuts):
    alone = plan(50, cuts=cuts)
    joined = plan(50, cuts=cuts, streams=[pool(11, 2.5), Stream("replay", examples(7, "s", seed=2), 1.5)])
    for epoch in range(3):
        labelled = [[[k for k in m if k[0] == "r"] for m in step] for step in steps(joined, epoch)]
        assert labelled == steps(alone, epoch)


def test_an_empty_stream_or_one_of_no_rows_a_step_is_no_stream():
    assert plan(streams=[Stream("unlabelled", [], 3.0), pool(5, 0.0)]).streams == []


# On several ranks


def loader(world: int, rank: int, cuts: int = 4):
    data = DataLoader(plan(50, cuts=cuts), batch_size=1, shuffle=False, collate_fn=lambda items: items[0])
    return prepare_data_loader(
        data, num_processes=world, process_index=rank, even_batches=False, put_on_device=False, dispatch_batches=False
    )


def keys_of(batches) -> list[list[str]]:
    return [batch["keys"] for batch in batches]


@pytest.mark.parametrize("epoch", [0, 3])
def test_rank_r_gets_items_r_r_plus_2_and_so_on(epoch):
    whole = [m for step in steps(plan(50, cuts=4), epoch) for m in step]
    for rank in range(2):
        shard = loader(2, rank)
        shard.set_epoch(epoch)
        assert keys_of(shard) == whole[rank::2]


def test_a_resumed_epoch_goes_on_with_the_same_rows():
    whole = [m for step in steps(plan(50, cuts=4), 2) for m in step]
    resumed = skip_first_batches(loader(1, 0), 5)
    resumed.set_epoch(2)
    assert keys_of(islice(resumed, 100)) == whole[5:]


def test_by_length_is_every_row_once_longest_first():
    rows = examples(23)
    batches = by_length(rows, 5)
    places = [i for batch in batches for i in batch]
    assert sorted(places) == list(range(23))
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    lengths = [rows[i].length for i in places]
    assert lengths == sorted(lengths, reverse=True)
    assert by_length(rows, lambda longest: 5) == batches


def test_more_short_texts_than_long_ones_are_written_at_once():
    greedy = Settings(max_new_tokens=44)
    assert [rows_at_once(greedy, True, longest) for longest in (10, 84, 84 + 128, 1000)] == [256, 128, 64, 64]
    assert rows_at_once(replace(greedy, beams=2), True, 20) == 128
    assert rows_at_once(greedy, False, 10) == 64
    rows = examples(300)
    batches = by_length(rows, lambda longest: 120 // longest)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert all(len(batch) * rows[batch[0]].length <= 120 for batch in batches)
    assert len({len(batch) for batch in batches[:-1]}) > 1
