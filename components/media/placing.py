"""Lay blocks of sound out on one line by their time stamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A deviation of the time stamps that does not last this long, or is less than this, is rounding and jitter (Vorbis:
# 10 ms where its blocks change their size): the sound went on. Beyond, some is missing or comes twice.
LASTING_S = 0.25
_MAX_JITTER_S = 0.015
# Time stamps of a run that deviate by more than this (ticks of 1 ms are rounded) say nothing of its exact place.
_MAX_ROUNDING_S = 0.0015


@dataclass(frozen=True)
class Block:
    """Sound of one decoded frame: mono samples ``[S]``, their time stamp and their rate."""

    samples: np.ndarray
    start_s: float
    rate: int

    @property
    def end_s(self) -> float:
        """Time stamp of the first sample after it."""
        return self.start_s + len(self.samples) / self.rate


@dataclass(frozen=True)
class Line:
    """Pieces of sound and their places.

    Attributes:
        pieces: float32 ``[S_i]`` each, in the order of the file.
        starts: position of each one's first sample in (fractional) samples after the time asked for.
    """

    pieces: list[np.ndarray]
    starts: list[float]

    @property
    def first(self) -> float:
        """Position of the first sample of all."""
        return min(self.starts)

    @property
    def last(self) -> float:
        """Position behind the last sample of all."""
        return max(start + len(piece) for start, piece in zip(self.starts, self.pieces, strict=True))

    def missing(self, begin: float, end: float) -> float:
        """How many of the samples from ``begin`` to ``end`` are in no piece."""
        covered, upto = 0.0, begin
        for start, piece in sorted(zip(self.starts, self.pieces, strict=True), key=lambda placed: placed[0]):
            covered += max(0.0, min(start + len(piece), end) - max(start, upto))
            upto = max(upto, start + len(piece))
        return max(0.0, end - begin - covered)

    def samples(self) -> np.ndarray:
        """All of it from the first sample on: zeros in holes, the later piece where two overlap; float32 ``[S]``."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        positions = [round(start - self.first) for start in self.starts]
        line = np.zeros(max(p + len(piece) for p, piece in zip(positions, self.pieces, strict=True)), np.float32)
        for position, piece in zip(positions, self.pieces, strict=True):
            line[position : position + len(piece)] = piece
        return line


def place(blocks: list[Block], begin_s: float) -> Line:
    """Lays blocks out on one line, at positions relative to the time ``begin_s``.

    Blocks that follow each other are one run, whose place is what most of its time stamps say. A new run begins where
    the time stamps leave the run's clock for good.

    Args:
        blocks: at least one, in the order of the file and of one rate.
        begin_s: time stamp in seconds.
    """
    rate = blocks[0].rate
    lengths = np.array([len(block.samples) for block in blocks])
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    # where the time stamps put the first sample, were there no holes
    offsets = np.array([block.start_s - begin_s for block in blocks]) * rate - before
    lasting = _lasting(offsets, max(1, round(LASTING_S * rate / max(1.0, float(np.median(lengths))))))
    borders = [0]
    for index, level in enumerate(lasting):
        if abs(level - lasting[borders[-1]]) > _MAX_JITTER_S * rate:
            borders.append(index)
    runs = list(zip(borders, [*borders[1:], len(blocks)], strict=True))
    starts = [_typical(offsets[a:b], _MAX_ROUNDING_S * rate) + float(before[a]) for a, b in runs]
    pieces = [np.concatenate([block.samples for block in blocks[a:b]]) for a, b in runs]
    return Line(pieces, starts)


def _lasting(offsets: np.ndarray, reach: int) -> np.ndarray:
    """Running median over ``reach`` values to either side, fewer towards the ends: steps stay, what returns goes."""
    if np.ptp(offsets) < 1:
        return offsets
    return np.array([np.median(_around(offsets, index, reach)) for index in range(len(offsets))])


def _around(values: np.ndarray, index: int, reach: int) -> np.ndarray:
    reach = min(reach, index, len(values) - 1 - index)
    return values[index - reach : index + reach + 1]


def _typical(offsets: np.ndarray, tolerance: float) -> float:
    """Mean over the values near the median: exact for coarse time stamps, and blind to jitter."""
    return float(np.mean(offsets[np.abs(offsets - np.median(offsets)) <= tolerance]))
