"""Orders that depend on the seed and the count alone."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from datamodules.reading.order import ConsumedSampler, EvaluationSampler, SampleKey, rank_and_world_size


@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 5), st.integers(0, 100), st.integers(1, 4))
def test_ranks_together_walk_the_one_order_batch_by_batch(
    items: int, seed: int, world: int, start: int, batch: int
) -> None:
    single = list(islice(ConsumedSampler(items, seed, start=start), 4 * world * batch))
    assert list(islice(ConsumedSampler(items, seed, start=start, batch_size=batch), len(single))) == single
    ranks = [list(islice(ConsumedSampler(items, seed, rank, world, start, batch), 4 * batch)) for rank in range(world)]
    turns = [rank[turn * batch : (turn + 1) * batch] for turn in range(4) for rank in ranks]
    assert [key for turn in turns for key in turn] == single
    assert [key.position for key in single] == list(range(start, start + 4 * world * batch))


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 100))
def test_resuming_goes_on_where_it_stopped(items: int, seed: int, consumed: int) -> None:
    whole = list(islice(ConsumedSampler(items, seed), consumed + 10))
    assert list(islice(ConsumedSampler(items, seed, start=consumed), 10)) == whole[consumed:]


@given(st.integers(2, 30), st.integers(0, 5))
def test_every_pass_is_a_permutation(items: int, seed: int) -> None:
    keys = [key.item for key in islice(ConsumedSampler(items, seed), 3 * items)]
    passes = [keys[:items], keys[items : 2 * items], keys[2 * items :]]
    assert all(sorted(one) == list(range(items)) for one in passes)


def test_passes_and_seeds_differ() -> None:
    first = [key.item for key in islice(ConsumedSampler(50, 0), 100)]
    assert first[:50] != first[50:]
    assert first[:50] != [key.item for key in islice(ConsumedSampler(50, 1), 50)]


@given(st.integers(1, 30), st.integers(1, 6))
def test_evaluation_shows_every_item_once_and_evens_out_the_ranks(items: int, world: int) -> None:
    shards = [list(EvaluationSampler(items, rank, world)) for rank in range(world)]
    assert {len(shard) for shard in shards} == {len(EvaluationSampler(items, 0, world))}
    assert sorted(key.item for shard in shards for key in shard if key.valid) == list(range(items))
    assert all(key.position == -1 for shard in shards for key in shard)


def test_an_item_repeated_for_evenness_is_not_valid() -> None:
    assert list(EvaluationSampler(3, 1, 2)) == [SampleKey(1), SampleKey(0, valid=False)]


def test_processes_that_share_the_tokens_of_clips_get_the_same_clips() -> None:
    places = []
    for rank in range(4):
        trainer: Any = SimpleNamespace(
            global_rank=rank, world_size=4, strategy=SimpleNamespace(context_parallel_size=2)
        )
        places.append(rank_and_world_size(trainer))
    assert places == [(0, 2), (0, 2), (1, 2), (1, 2)]
