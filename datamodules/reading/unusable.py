"""Keeps book of recordings that cannot be used, across the worker processes of a loader."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from components.errors import FAULTS, Fault, InputError
from datamodules.reading.records import ClipRecord

_log = logging.getLogger("avsync.data")
_MAX_NAMED = 10

WHOLE: tuple[Fault, ...] = ("shorter than a clip", "without sound")
"""Faults of all clips of a recording; the others may be one clip's alone."""


class UnusableClips:
    """Reports each recording with an unusable clip once, by name and with a running count; ends the run at too many.

    The marks live in shared memory, so all worker processes of one training process count together.

    Args:
        records: the recordings of the set.
        max_fraction: more than this share of the recordings raises.
        expected: faults that were asked to be passed over; recordings that have one are no part of that share.
    """

    def __init__(self, records: Sequence[ClipRecord], max_fraction: float, expected: Sequence[Fault] = ()) -> None:
        self._records = records
        self.max_fraction = max_fraction
        self.expected = frozenset(expected)
        self._first = 0
        # shared memory: workers are processes of their own, and their marks must add up
        self._faults = torch.zeros(len(records), dtype=torch.uint8).share_memory_()  # 1 + the fault's number, or 0
        self._silent = torch.zeros(len(records), dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        """Recordings in which an unusable clip was met so far."""
        return int((self._faults > 0).sum())

    @property
    def leaves_some(self) -> bool:
        """Whether there are recordings in which none was met so far."""
        return self.count < len(self._records)

    @property
    def counts(self) -> Mapping[Fault, int]:
        """How many of them have which fault, the most frequent first."""
        return counted(FAULTS[mark - 1] for mark in self._faults[self._faults > 0].tolist())

    @property
    def silent_count(self) -> int:
        """Recordings in which a silent clip was met so far."""
        return int(self._silent.sum())

    def part(self, first: int) -> UnusableClips:
        """The same book for a set that begins with the recording ``first``: all sets that keep it count together."""
        part = copy.copy(self)
        part._first = self._first + first
        return part

    def known(self, index: int, faults: Sequence[Fault] = FAULTS) -> bool:
        """True if one of these faults was found in the recording before."""
        mark = int(self._faults[self._first + index])
        return mark > 0 and FAULTS[mark - 1] in faults

    def report(self, index: int, reason: InputError) -> None:
        """Marks a recording of which a clip is unusable.

        Raises:
            InputError: if now more than the allowed share is unusable; names the first of them.
        """
        if not self.known(index):
            self._faults[self._first + index] = 1 + FAULTS.index(reason.fault)
            _log.warning("skipped unusable clip %d of %d: %s", self.count, len(self._records), reason)
        counted = self._faults > 0
        for fault in self.expected:
            counted &= self._faults != 1 + FAULTS.index(fault)
        if int(counted.sum()) > self.max_fraction * len(self._records):
            raise InputError(
                f"{int(counted.sum())} of {len(self._records)} clips cannot be used, more than max_corrupt_fraction ="
                f" {self.max_fraction:g} allows: {self._names(counted)}; the last one: {reason}"
            ) from reason

    def report_silent(self, index: int, span: str) -> None:
        """Notes a silent clip of a recording; it is used all the same."""
        index += self._first
        if not self._silent[index]:
            self._silent[index] = 1
            path = self._records[index].path
            _log.warning("silent sound in %s (%s), silent recordings so far: %d", path, span, self.silent_count)

    def summary(self) -> str | None:
        """What was skipped, by fault and with the first names; None if nothing was."""
        if not self.count:
            return None
        return (
            f"skipped {self.count} of {len(self._records)} recordings: {in_words(self.counts)} "
            f"({self._names(self._faults > 0)})"
        )

    def _names(self, marks: torch.Tensor) -> str:
        indices = marks.nonzero().flatten().tolist()
        names = ", ".join(str(self._records[index].path) for index in indices[:_MAX_NAMED])
        more = len(indices) - _MAX_NAMED
        return names if more <= 0 else f"{names} and {more} more, named above"


def counted(faults: Iterable[Fault]) -> dict[Fault, int]:
    """How often each occurs, the most frequent first."""
    counts = Counter(faults)
    return {fault: counts[fault] for fault in sorted(counts, key=lambda fault: (-counts[fault], FAULTS.index(fault)))}


def in_words(counts: Mapping[Fault, int]) -> str:
    """``2 shorter than a clip, 1 unreadable``."""
    return ", ".join(f"{count} {fault}" for fault, count in counts.items())
