"""Training orders over several groups of clips: a few samples of one group in a row, then the next group's turn.

A batch can then be filled from one group alone, whose clips have one shape, and groups are seen in given shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TURNS_OF_A_BLOCK = 16


class TurnOrder:
    """Groups in given shares, each shuffled pass by pass by itself; an `Order` (`order.py`).

    Turns are dealt in blocks of `TURNS_OF_A_BLOCK`, in each of which every group has its share of the turns to less
    than one (drawn so that it is exact in the mean), in an order drawn for the block. Of a group, each pass is one
    permutation, and its turns go through the passes one after another, whatever the other groups do. All of it depends
    on the seed and the position alone.

    Args:
        sizes: items of each group; group g's are numbered from ``sum(sizes[:g])`` on.
        shares: how often the groups come, in any unit.
        seed: decides turns and permutations.
        samples_in_a_row: samples of one turn.

    Raises:
        ValueError: a group is empty, a share is not positive, or a turn has no samples.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], seed: int, samples_in_a_row: int) -> None:
        if not sizes or len(sizes) != len(shares) or min(sizes) < 1 or not min(shares) > 0 or samples_in_a_row < 1:
            raise ValueError(f"groups of {sizes} items cannot take turns of {samples_in_a_row} by {shares}")
        self.sizes, self.seed, self.samples_in_a_row = list(sizes), seed, samples_in_a_row
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        self._edges = np.cumsum(np.asarray(shares, dtype=np.float64) / sum(shares))
        self._edges[-1] = 1.0  # against rounding
        self._passes: dict[int, tuple[int, np.ndarray]] = {}
        self._block, self._before = 0, np.zeros(len(self.sizes), dtype=np.int64)
        self._groups = self._dealt()

    def item(self, position: int) -> int:
        """The item at a position."""
        turn, offset = divmod(position, self.samples_in_a_row)
        group, before = self.turn(turn)
        number, place = divmod(before * self.samples_in_a_row + offset, self.sizes[group])
        known, order = self._passes.get(group, (-1, None))
        if order is None or known != number:
            order = np.random.default_rng([self.seed, 1, group, number]).permutation(self.sizes[group])
            self._passes[group] = number, order
        return int(self._first[group] + order[place])

    def turn(self, turn: int) -> tuple[int, int]:
        """Whose turn it is, and how many turns that group had before."""
        block, place = divmod(turn, TURNS_OF_A_BLOCK)
        if block < self._block:  # back again
            self._block, self._before = 0, np.zeros(len(self.sizes), dtype=np.int64)
            self._groups = self._dealt()
        while self._block < block:  # counting all turns up to a resumption takes a second per million
            self._before += np.bincount(self._groups, minlength=len(self.sizes))
            self._block += 1
            self._groups = self._dealt()
        group = int(self._groups[place])
        return group, int(self._before[group] + np.count_nonzero(self._groups[:place] == group))

    def _dealt(self) -> np.ndarray:
        """The groups of a block's turns: int ``[TURNS_OF_A_BLOCK]``."""
        generator = np.random.default_rng([self.seed, 0, self._block])
        # systematic sampling: evenly spaced points with one common offset give each share its turns, to less than one
        points = (np.arange(TURNS_OF_A_BLOCK) + generator.uniform()) / TURNS_OF_A_BLOCK
        return generator.permutation(np.searchsorted(self._edges, points, side="right"))
