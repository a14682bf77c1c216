"""Groups that take turns: their shares, their passes, and that ranks and resumptions see the one order."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.reading.order import ConsumedSampler, EvaluationBatches, SampleKey
from datamodules.reading.turns import TurnOrder

groups = st.lists(st.tuples(st.integers(1, 9), st.floats(0.05, 5.0)), min_size=1, max_size=4)


def order(parts: list[tuple[int, float]], seed: int, turn: int) -> TurnOrder:
    return TurnOrder([size for size, _ in parts], [share for _, share in parts], seed, turn)


@given(groups, st.integers(0, 5), st.integers(1, 6))
def test_a_group_is_gone_through_pass_by_pass_whatever_the_others_do(
    parts: list[tuple[int, float]], seed: int, turn: int
) -> None:
    one = order(parts, seed, turn)
    items = [one.item(position) for position in range(60 * turn)]
    first = np.concatenate([[0], np.cumsum(one.sizes)])
    of_groups: dict[int, list[int]] = {}
    for index in range(0, len(items), turn):
        group = one.turn(index // turn)[0]
        in_a_row = [item - int(first[group]) for item in items[index : index + turn]]
        assert all(0 <= item < one.sizes[group] for item in in_a_row)  # of one group alone
        of_groups.setdefault(group, []).extend(in_a_row)
    for group, seen in of_groups.items():
        size = one.sizes[group]
        for begin in range(0, len(seen) - size + 1, size):
            assert sorted(seen[begin : begin + size]) == list(range(size))


@given(groups, st.integers(0, 5), st.integers(1, 4), st.integers(0, 700))
def test_every_place_can_be_asked_for_by_itself(
    parts: list[tuple[int, float]], seed: int, turn: int, begin: int
) -> None:
    whole = order(parts, seed, turn)
    expected = [whole.item(position) for position in range(begin + 40)]
    resumed = order(parts, seed, turn)
    assert [resumed.item(position) for position in range(begin, begin + 40)] == expected[begin:]
    assert [resumed.item(position) for position in range(40)] == expected[:40]  # back again


def test_shares_are_those_asked_for() -> None:
    even = TurnOrder([5, 500], [1, 1], seed=0, samples_in_a_row=4)
    turns = [even.turn(turn)[0] for turn in range(160)]
    assert all(turns[begin : begin + 16].count(0) == 8 for begin in range(0, 160, 16))
    assert turns[:16] != turns[16:32]  # in an order of its own
    odd = TurnOrder([5, 5, 5], [0.61, 0.36, 0.03], seed=1, samples_in_a_row=1)
    turns = [odd.turn(turn)[0] for turn in range(16 * 500)]
    counts = [turns.count(group) / len(turns) for group in range(3)]
    assert counts == pytest.approx([0.61, 0.36, 0.03], abs=0.005)
    blocks = {tuple(turns[begin : begin + 16].count(group) for group in range(3)) for begin in range(0, 8000, 16)}
    assert {first for first, *_ in blocks} == {9, 10} and {last for *_, last in blocks} == {0, 1}
    other = TurnOrder([5, 5, 5], [0.61, 0.36, 0.03], seed=2, samples_in_a_row=1)
    assert turns != [other.turn(turn)[0] for turn in range(16 * 500)]


@given(groups, st.integers(1, 3), st.integers(1, 3), st.integers(0, 20))
def test_all_ranks_have_one_group_in_a_step_and_together_the_one_order(
    parts: list[tuple[int, float]], world: int, batch: int, steps_before: int
) -> None:
    turn = 2 * world * batch
    start = steps_before * world * batch
    single = list(islice(ConsumedSampler(9, 0, start=start, order=order(parts, 3, turn)), 6 * world * batch))
    ranks = [
        list(islice(ConsumedSampler(9, 0, rank, world, start, batch, order=order(parts, 3, turn)), 6 * batch))
        for rank in range(world)
    ]
    turns = [rank[step * batch : (step + 1) * batch] for step in range(6) for rank in ranks]
    assert [key for keys in turns for key in keys] == single
    edges = np.cumsum([size for size, _ in parts])
    for step in range(6):
        keys = [key for rank in ranks for key in rank[step * batch : (step + 1) * batch]]
        assert len({int(np.searchsorted(edges, key.item, side="right")) for key in keys}) == 1


@given(st.lists(st.lists(st.integers(0, 50), max_size=7), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4))
def test_evaluation_batches_have_one_group_and_all_ranks_as_many(
    groups: list[list[int]], world: int, batch: int
) -> None:
    ranks = [list(EvaluationBatches(groups, batch, rank, world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(EvaluationBatches(groups, batch, 0, world))}
    shown = [key for turn in zip(*ranks, strict=True) for keys in turn for key in keys]
    assert sorted(key.item for key in shown if key.valid) == sorted(item for group in groups for item in group)
    assert all(0 < len(keys) <= batch for batches in ranks for keys in batches)


def test_evaluation_batches_by_hand() -> None:
    assert list(EvaluationBatches([[0, 1, 2], [7]], 2, 1, 2)) == [
        [SampleKey(1), SampleKey(0, valid=False)],
        [SampleKey(7, valid=False)],
    ]


@pytest.mark.parametrize("wrong", [([], []), ([0], [1.0]), ([1], [0.0]), ([1, 2], [1.0])])
def test_what_cannot_take_turns_is_refused(wrong: tuple[list[int], list[float]]) -> None:
    with pytest.raises(ValueError, match="cannot take turns"):
        TurnOrder(*wrong, seed=0, samples_in_a_row=1)
