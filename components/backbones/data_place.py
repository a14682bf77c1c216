"""Which share of the data a process takes part in."""

from __future__ import annotations

from typing import Any, NamedTuple


class DataPlace(NamedTuple):
    """A process among those that see clips of their own.

    Attributes:
        rank: which share of the data it sees.
        size: how many shares there are.
        among_equals: its place among the processes that see the same share, and share the tokens of every clip
            (`components.backbones.context_parallel`); 0 where it sees it alone.
    """

    rank: int
    size: int
    among_equals: int


def context_size(trainer: Any) -> int:
    """How many processes share the tokens of a clip, by the Trainer's strategy; 1 where none does."""
    return int(getattr(getattr(trainer, "strategy", None), "context_parallel_size", 1))


def data_place(trainer: Any) -> DataPlace:
    """The place of this process of a Trainer."""
    return place_of(trainer.global_rank, trainer.world_size, context_size(trainer))


def place_of(rank: int, processes: int, sharing: int) -> DataPlace:
    """The place of a process where so many share each clip; those that do are neighbours in rank."""
    share, among_equals = divmod(rank, sharing)
    return DataPlace(share, processes // sharing, among_equals)
