"""Keeps book of recordings that cannot be used, across the worker processes of a loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from components.errors import InputError
from datamodules.records import ClipRecord

_log = logging.getLogger("avsync.data")


class UnusableClips:
    """Reports each unusable recording once, by name and with a running count, and ends the run when they are too many.

    The marks live in shared memory, so all worker processes of one training process count together.

    Args:
        records: the recordings of the set.
        max_fraction: more than this share of the recordings raises.
    """

    def __init__(self, records: Sequence[ClipRecord], max_fraction: float) -> None:
        self._records = records
        self._max_fraction = max_fraction
        self._unusable = torch.zeros(len(records), dtype=torch.uint8).share_memory_()
        self._silent = torch.zeros(len(records), dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        """Recordings found unusable so far."""
        return int(self._unusable.sum())

    @property
    def silent_count(self) -> int:
        """Recordings in which a silent clip was met so far."""
        return int(self._silent.sum())

    def known(self, index: int) -> bool:
        """True if the recording was found unusable before."""
        return bool(self._unusable[index])

    def report(self, index: int, reason: InputError) -> None:
        """Marks a recording as unusable.

        Raises:
            InputError: if now more than the allowed share is unusable; names them all.
        """
        if not self._unusable[index]:
            self._unusable[index] = 1
            _log.warning("skipped unusable clip %d of %d: %s", self.count, len(self._records), reason)
        if self.count > self._max_fraction * len(self._records):
            names = ", ".join(str(self._records[i].path) for i in self._unusable.nonzero().flatten().tolist())
            raise InputError(
                f"{self.count} of {len(self._records)} clips cannot be used, more than max_corrupt_fraction ="
                f" {self._max_fraction:g} allows: {names}; the last one: {reason}"
            ) from reason

    def report_silent(self, index: int, span: str) -> None:
        """Notes a silent clip of a recording; it is used all the same."""
        if not self._silent[index]:
            self._silent[index] = 1
            path = self._records[index].path
            _log.warning("silent sound in %s (%s), silent recordings so far: %d", path, span, self.silent_count)
