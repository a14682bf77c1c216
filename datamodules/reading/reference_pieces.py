"""Pieces of sound that serve as references: how long, from where, and never of the clip's own seconds.

Source: Harmony (arXiv 2511.21579), supplement: references are random pieces of 1 to 3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

Span = tuple[float, float]


class PieceDraw(NamedTuple):
    """Where a piece lies and how long it is, as shares of what is possible.

    Attributes:
        place: 0 for the first possible start, 1 for the last.
        share: 0 for the shortest piece, 1 for the longest; None always takes the longest.
    """

    place: float = 0.0
    share: float | None = None

    @classmethod
    def drawn(cls, generator: np.random.Generator | None, shortest: int | None) -> PieceDraw:
        """Evenly drawn; without a generator the longest piece at the first place."""
        if generator is None:
            return cls()
        place = float(generator.uniform())
        return cls(place, None if shortest is None else float(generator.uniform()))

    def length(self, shortest: int | None, longest: int) -> int:
        """Samples of the piece where ``longest`` are to be had; all of them where that is less than ``shortest``."""
        if self.share is None or shortest is None or longest <= shortest:
            return longest
        # every length is equally likely; ``min`` for a share of exactly 1
        return min(longest, shortest + int(self.share * (longest - shortest + 1)))

    def start_s(self, parts: Sequence[Span], length_s: float) -> float:
        """Start of a piece of ``length_s`` seconds within one of ``parts``; every start is equally likely.

        Args:
            parts: begin and end in seconds; one of them at least holds the piece.
            length_s: seconds of the piece.
        """
        rooms = [max(0.0, end_s - begin_s - length_s) for begin_s, end_s in parts]
        # a part that was measured in samples may be shorter by a rounding
        fits = [end_s - begin_s >= length_s - 1e-9 for begin_s, end_s in parts]
        ahead_s = self.place * sum(rooms)
        start_s = next(begin_s for (begin_s, _), fit in zip(parts, fits, strict=True) if fit)
        for (begin_s, _), room_s, fit in zip(parts, rooms, fits, strict=True):
            if not fit:
                continue
            start_s = begin_s + min(ahead_s, room_s)
            if ahead_s <= room_s:
                break
            ahead_s -= room_s
        return start_s


def parts_outside(span: Span, taken: Span | None) -> list[Span]:
    """What is left of ``span`` beside ``taken``: up to two parts, the longer one first."""
    begin_s, end_s = span
    if taken is None or taken[1] <= begin_s or taken[0] >= end_s:
        return [span]
    parts = [(begin_s, taken[0]), (taken[1], end_s)]
    return sorted((part for part in parts if part[1] > part[0]), key=lambda part: part[0] - part[1])


def own_segment(sound: Tensor, slot: int, shortest: int, generator: np.random.Generator | None) -> tuple[Tensor, int]:
    """A piece of a clip's own sound: ``[slot]``, zeros after its end, and its samples.

    Args:
        sound: the clip's sound ``[S]`` without padding.
        slot: samples of the longest piece.
        shortest: samples of the shortest piece; a clip that is shorter gives all of itself.
        generator: draws length and place, each evenly; None takes the first ``slot`` samples.
    """
    longest = min(slot, len(sound))
    length, start = longest, 0
    if generator is not None:
        length = int(generator.integers(min(shortest, longest), longest + 1))
        start = int(generator.integers(len(sound) - length + 1))
    return pad(sound[start : start + length], (0, slot - length)), length
