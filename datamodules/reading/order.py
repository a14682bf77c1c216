"""Which sample comes when: an endless training order that needs no memory, and even shards for evaluation.

Which share of the data a process gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, Protocol

import lightning as L
import numpy as np
import torch
from torch.utils.data import SequentialSampler

from components.backbones.data_place import data_place
from components.errors import InputError


class SampleKey(NamedTuple):
    """What a sampler hands to the data set.

    Attributes:
        item: which item.
        position: the sample's place in the endless training order over all ranks, -1 in evaluation.
        valid: False for an item repeated only to give every rank the same number.
        cut_as: the position whose clip is cut again (of a set that is overfitted on purpose), None for its own.
        offset: which of a recording's fixed training clips; None lets the position decide.
    """

    item: int
    position: int = -1
    valid: bool = True
    cut_as: int | None = None
    offset: int | None = None


class Order(Protocol):
    """An endless order of training samples, of which every place can be asked for."""

    def item(self, position: int) -> int:
        """Which item comes at a position; asked for in rising order, or again from an earlier one."""


class ShuffledOrder:
    """Pass after pass over a set, each in a permutation of its own.

    Sample ``p`` is entry ``p mod n`` of permutation ``p div n``.

    Args:
        num_items: size of the set.
        seed: decides the permutations.
    """

    def __init__(self, num_items: int, seed: int) -> None:
        if num_items < 1:
            raise ValueError("there is nothing to sample from")
        self.num_items, self.seed = num_items, seed
        self._current, self._order = -1, [0]

    def item(self, position: int) -> int:
        """The item at a position."""
        number, offset = divmod(position, self.num_items)
        if number != self._current:
            # far apart: no pass of one seed is a pass of the next
            generator = torch.Generator().manual_seed(self.seed * 100_003 + number)
            self._order, self._current = torch.randperm(self.num_items, generator=generator).tolist(), number
        return int(self._order[offset])


# These are sequential samplers by name: with overfit_batches Lightning replaces all others by plain indices, without
# positions, shares of the ranks and marks of repeated items.
class ConsumedSampler(SequentialSampler):
    """Shuffled order as a function of the seed and the number of samples consumed by all ranks so far.

    The ranks take turns, a batch in a row each, so w ranks see in one step the batches that one rank sees in w steps,
    and a run can go on with another number of ranks.

    Args:
        num_items: samples of a pass: the size of the set.
        seed: decides the order where ``order`` is None.
        rank: this process.
        world_size: number of processes.
        start: samples consumed so far by all processes, or what says so whenever a pass begins.
        batch_size: samples a rank takes in a row.
        passes_end: a pass ends where all ranks together have taken as many samples as the set has, rounded up to whole
            batches; the next one goes on from there. Otherwise it never ends.
        held: every pass has the clips of the first so many positions, under positions of their own.
        order: which item comes when; None shuffles the set pass by pass (`ShuffledOrder`).
    """

    def __init__(
        self,
        num_items: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int | Callable[[], int] = 0,
        batch_size: int = 1,
        passes_end: bool = False,
        held: int | None = None,
        order: Order | None = None,
    ) -> None:
        self.order = ShuffledOrder(num_items, seed) if order is None else order
        self.num_items, self.rank, self.world_size, self.start = num_items, rank, world_size, start
        self.batch_size, self.passes_end, self.held = batch_size, passes_end, held

    @property
    def batches_of_a_pass(self) -> int:
        """Batches of one rank in a pass over the set."""
        return -(-self.num_items // (self.world_size * self.batch_size))

    def __len__(self) -> int:
        if not self.passes_end:
            raise TypeError("the order has no end")  # what PyTorch and Lightning ask for to know
        return self.batches_of_a_pass * self.batch_size

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]  # keys in place of indices
        # asked for anew at every pass: one may have been broken off (limit_train_batches)
        consumed = self.start if isinstance(self.start, int) else self.start()
        batches = range(self.batches_of_a_pass) if self.passes_end else count()
        for batch in batches:
            # a rank's batch; the others' lie in between
            first = consumed + (batch * self.world_size + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                cut_as = None if self.held is None else position % self.held
                yield SampleKey(self.order.item(position if cut_as is None else cut_as), position, cut_as=cut_as)


class EvaluationSampler(SequentialSampler):
    """Every item once, in order, dealt out to the ranks; short ranks repeat items marked as not valid.

    Rank r of w gets the items ``r, r + w, ...``. All ranks get ``ceil(n / w)`` items because sharded models must run
    the same number of forward passes everywhere.
    """

    def __init__(self, num_items: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_items, self.rank, self.world_size = num_items, rank, world_size

    def __len__(self) -> int:
        return -(-self.num_items // self.world_size)

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]  # keys in place of indices
        for row in range(len(self)):
            index = row * self.world_size + self.rank
            # beyond the end the first items again, not counted
            yield SampleKey(index % self.num_items, valid=index < self.num_items)


class EvaluationBatches(SequentialSampler):
    """Like `EvaluationSampler`, in whole batches of which none has items of two groups.

    Args:
        groups: the items of each group, in the order in which they are shown.
        batch_size: items per batch; the last batch of a group may have fewer.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, groups: Sequence[Sequence[int]], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.groups, self.batch_size, self.rank, self.world_size = groups, batch_size, rank, world_size

    def __len__(self) -> int:
        rows = [-(-len(group) // self.world_size) for group in self.groups]
        return sum(-(-of_rank // self.batch_size) for of_rank in rows)

    def __iter__(self) -> Iterator[list[SampleKey]]:  # type: ignore[override]  # batches of keys in place of indices
        for group in self.groups:
            shard = [SampleKey(group[key.item], valid=key.valid) for key in self._shard(len(group))]
            for begin in range(0, len(shard), self.batch_size):
                yield shard[begin : begin + self.batch_size]

    def _shard(self, num_items: int) -> Iterator[SampleKey]:
        return iter(EvaluationSampler(num_items, self.rank, self.world_size)) if num_items else iter(())


def sample_generator(seed: int, key: SampleKey, purpose: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the sample alone, not on what was drawn before."""
    # + 1, because seeds cannot be negative and -1 stands for evaluation
    place = key.position if key.cut_as is None else key.cut_as
    return np.random.default_rng([seed, place + 1, key.item if place < 0 else 0, purpose])


def drawn_offset(seed: int, key: SampleKey, offsets: int) -> int:
    """Which of ``offsets`` fixed clips of its recording a training sample is, where each is equally likely."""
    if key.offset is not None:
        return key.offset
    return min(int(sample_generator(seed, key, purpose=0).uniform() * offsets), offsets - 1)


def stand_ins(seed: int, key: SampleKey, index: int, num_items: int) -> Iterator[int]:
    """The item itself, then those that may take its place, in an order that depends on seed and sample alone."""
    yield index
    yield from sample_generator(seed, key, purpose=1).permutation(num_items).tolist()


def rank_and_world_size(trainer: L.Trainer | None) -> tuple[int, int]:
    """Which share of the data the process gets, and how many there are (0 and 1 without a trainer).

    Processes that share the tokens of every clip get the same share.

    Raises:
        InputError: Lightning would put its own sampler in place of the data module's.
    """
    if trainer is None:
        return 0, 1
    # private in Lightning; without it the setting counts as off
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
        raise InputError(
            "trainer.use_distributed_sampler is true; set it to false: the data module itself deals clips to the ranks"
        )
    return data_place(trainer)[:2]
