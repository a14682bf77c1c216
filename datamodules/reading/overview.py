"""What a list of recordings holds, by the headers of its files: the first lines of a training say it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from components.errors import Fault, InputError
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.record_reader import Promise
from datamodules.reading.unusable import counted, in_words

_AT_ONCE = 64
_THREADS = 8  # opening a file is mostly waiting for it


@dataclass(frozen=True)
class Overview:
    """Counts of a split.

    Attributes:
        num_recordings: in the list.
        num_looked_at: recordings whose headers were read.
        usable_s: seconds that clips may be cut from, of those.
        num_mute: how many of them are used without a sound track.
        faults: how many of them cannot be used, by what is wrong.
    """

    num_recordings: int
    num_looked_at: int
    usable_s: float
    num_mute: int
    faults: Mapping[Fault, int]

    def line(self, split: str) -> str:
        """One line: ``train: 409 recordings, 2 h 13 min; 3 cannot be used: 2 shorter than a clip, 1 unreadable``."""
        lost = sum(self.faults.values())
        used = used_in_words(self.num_looked_at - lost, self.usable_s, self.num_mute)
        if self.num_looked_at < self.num_recordings:
            used = f"{self.num_recordings} recordings, of which {self.num_looked_at} were looked at: {used}"
        return f"{split}: {used}" + (f"; {lost} cannot be used: {in_words(self.faults)}" if lost else "")


def overview(*parts: ClipDataset, patience_s: float = 5.0) -> Overview:
    """Reads headers for as long as ``patience_s`` seconds, in a random order where that is not enough for all.

    Nothing is decoded: damage within a file is found when it is read (``avsync doctor`` does).

    Args:
        *parts: one set, or its recordings by the shapes of their clips.
        patience_s: how long to look.
    """
    listed = [(part.reader, record) for part in parts for record in part.records]
    faults: list[Fault] = []
    usable_s, num_mute, looked_at = 0.0, 0, 0
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(0)).tolist()

    def promise_of(index: int) -> Promise | InputError:
        try:
            reader, record = listed[index]
            return reader.promise(record)
        except InputError as error:
            return error

    end = time.monotonic() + patience_s
    with ThreadPoolExecutor(_THREADS) as pool:
        while looked_at < len(order) and (not looked_at or time.monotonic() < end):
            found = list(pool.map(promise_of, order[looked_at : looked_at + _AT_ONCE]))
            looked_at += len(found)
            for one in found:
                if isinstance(one, InputError):
                    faults.append(one.fault)
                else:
                    usable_s += one.usable_s
                    num_mute += one.mute
    return Overview(len(order), looked_at, usable_s, num_mute, counted(faults))


def used_in_words(count: int, seconds: float, mute: int) -> str:
    """``409 recordings, 2 h 13 min, 12 of them mute``."""
    of_them = f", {mute} of them mute" if mute else ""
    return f"{recordings(count)}, {duration_in_words(seconds)}{of_them}"


def recordings(count: int) -> str:
    """``409 recordings``."""
    return f"{count} recording{'' if count == 1 else 's'}"


def named(split: str, prefix: str) -> str:
    """``train``, or ``train (speech)`` for a set of a mixture, whose names begin with ``speech/``."""
    return f"{split} ({prefix.removesuffix('/')})" if prefix else split


def duration_in_words(seconds: float) -> str:
    """``2 h 13 min``, ``4 min 20 s`` or ``12.5 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
