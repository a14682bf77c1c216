"""How prefix lengths are dealt out over steps and ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.objectives.prefix_lengths import stratified_n, synchronised_n, units_per_stage


@given(
    num_units=st.integers(1, 24),
    first=st.integers(1, 2),
    world_size=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    cycles=st.integers(1, 4),
)
def test_every_n_comes_once_per_cycle_over_any_number_of_ranks(
    num_units: int, first: int, world_size: int, seed: int, cycles: int
):
    num_units = max(num_units, first)
    count = num_units + 1 - first
    steps = -(-cycles * count // world_size)
    drawn = [stratified_n(s, r, world_size, num_units, first, seed) for s in range(steps) for r in range(world_size)]
    for cycle in range(cycles):
        assert sorted(drawn[cycle * count : (cycle + 1) * count]) == list(range(first, num_units + 1))


def test_the_order_changes_with_cycle_and_seed_but_not_with_the_number_of_ranks():
    def order(cycle: int, seed: int) -> list[int]:
        return [stratified_n(step, 0, 1, 16, 1, seed) for step in range(16 * cycle, 16 * (cycle + 1))]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(cycle, seed)) for cycle in range(3) for seed in range(3)}) == 9
    assert order(0, 3) == [stratified_n(p // 4, p % 4, 4, 16, 1, 3) for p in range(16)]


@given(num_units=st.integers(2, 24), first=st.integers(1, 2), stages=st.integers(1, 4), data=st.data())
def test_units_balance_high_resolution_against_low(num_units: int, first: int, stages: int, data: st.DataObject):
    n = data.draw(st.integers(first, num_units))
    units = units_per_stage(n, num_units, stages, first)
    assert len(units) == stages and units[-1] == n
    assert all(length + n == num_units + first for length in units[:-1])
    assert all(first <= length <= num_units for length in units)
    short = units_per_stage(n, num_units, stages, first, available=first)
    assert short == [first] * stages


def test_the_released_recipe_starves_prefixes_where_ranks_are_few():
    """One rank and a group of 8 only ever draws 1 and 9: why `stratified_n` exists."""
    assert {synchronised_n(0, call, 8, 16) for call in range(50)} == {1, 9}
    assert {synchronised_n(rank, call, 8, 16) for call in range(2) for rank in range(8)} == set(range(1, 17))


def test_a_group_larger_than_the_clip_is_refused():
    with pytest.raises(ValueError, match="group of 8 ranks exceeds the 5 units"):
        synchronised_n(0, 0, 8, 5)


def test_clips_shorter_than_the_shortest_prefix():
    with pytest.raises(InputError, match=r"have 1 latent frames .* shortest_prefix is 2: raise num_frames"):
        stratified_n(0, 0, 1, 1, 2, 0)
