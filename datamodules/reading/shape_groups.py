"""Recordings grouped by the shape of their clips: their length, and the size nearest to their picture's form."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.known_forms import forms_of
from datamodules.reading.record_reader import RecordReader
from datamodules.reading.records import ClipRecord

_log = logging.getLogger("avsync.data")


class ShapeGroup(NamedTuple):
    """Recordings whose clips go into one batch.

    Attributes:
        shape: what their clips are read in.
        num_frames: frames of each clip; None where nobody looked.
        records: the recordings.
    """

    shape: ClipShape
    num_frames: int | None
    records: list[ClipRecord]


@dataclass(frozen=True)
class ShapeGroups:
    """By what recordings are grouped.

    Attributes:
        by_length: clips of a group have as many frames (where ``clip.min_frames`` lets them differ).
        sizes: heights and widths; a recording goes to the one whose ratio of sides is nearest to its picture's, on a
            logarithmic scale. Empty for the clip's own.
        folder: where the forms of recordings are kept from one start to the next; None for nowhere.

    Raises:
        InputError: a size is not positive or named twice.
    """

    by_length: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        for size in self.sizes:
            if min(size) < 1 or self.sizes.count(size) > 1:
                raise InputError(f"bucket_sizes has {list(size)}; sizes are positive heights and widths, each once")

    def of(self, records: Sequence[ClipRecord], reader: RecordReader, writes: bool = True) -> list[ShapeGroup]:
        """The groups; long clips and wide pictures first.

        Every recording is opened, unless its form is known (`known_forms.py`). One that cannot be opened joins the
        first group, where it is met again when its clip is read.

        Args:
            records: the recordings.
            reader: what reads them.
            writes: whether this process writes forms down.
        """
        by_size = bool(self.sizes) and not reader.audio_only
        if not by_size and not (self.by_length and reader.shape.min_frames is not None):
            return [ShapeGroup(reader.shape, None, list(records))]
        forms = forms_of(records, reader, by_size, self.folder, writes)
        groups: dict[tuple[int, tuple[int, int]], list[ClipRecord]] = {}
        unread: list[ClipRecord] = []
        for record, form in zip(records, forms, strict=True):
            if form is None:
                unread.append(record)
                continue
            size = (reader.shape.height, reader.shape.width)
            if by_size and form.size is not None:
                size = self.nearest(form.size)
            groups.setdefault((form.num_frames if self.by_length else reader.shape.num_frames, size), []).append(record)
        ordered = sorted(groups, key=lambda key: (-key[0], key[1][0] / key[1][1]))
        found = [
            ShapeGroup(
                replace(reader.shape, height=key[1][0], width=key[1][1]),
                key[0] if self.by_length else None,
                groups[key],
            )
            for key in ordered
        ]
        if not found:
            return [ShapeGroup(reader.shape, None, unread)]
        found[0].records.extend(unread)
        _log.info(
            "%d recordings in %d shapes: %s",
            len(records),
            len(found),
            ", ".join(f"{len(groups[key])} of {key[0]} frames, {key[1][0]}x{key[1][1]}" for key in ordered),
        )
        return found

    def nearest(self, size: tuple[float, float]) -> tuple[int, int]:
        """The size whose ratio of sides is nearest to that of a picture of ``size``."""
        ratio = math.log(size[0] / size[1])
        return min(self.sizes, key=lambda one: abs(math.log(one[0] / one[1]) - ratio))
