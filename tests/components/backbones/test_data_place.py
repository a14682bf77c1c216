"""Processes that share the tokens of clips see one share of the data."""

from types import SimpleNamespace

from components.backbones.data_place import DataPlace, context_size, data_place


def trainer(rank: int, **strategy: int) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, world_size=6, strategy=SimpleNamespace(**strategy))


def test_every_process_has_clips_of_its_own_unless_the_strategy_says_otherwise():
    assert [data_place(trainer(rank)) for rank in range(6)] == [DataPlace(rank, 6, 0) for rank in range(6)]
    assert context_size(trainer(0)) == 1


def test_neighbours_share_clips():
    places = [data_place(trainer(rank, context_parallel_size=3)) for rank in range(6)]
    assert places == [(0, 2, 0), (0, 2, 1), (0, 2, 2), (1, 2, 0), (1, 2, 1), (1, 2, 2)]
