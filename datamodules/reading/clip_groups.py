"""Clips in groups that do not go into one batch: sets with and without picture, clips of different shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from torch.utils.data import Dataset

from components.contracts import ClipBatch
from components.media.clock import ClipShape
from datamodules.reading.cached_latents import CachedLatents, DeliveredClip, collate_prepared
from datamodules.reading.clip_dataset import Clip, ClipDataset, collate_clips
from datamodules.reading.order import SampleKey

AnyClip = Clip | DeliveredClip
"""A clip as it was read, or as it was encoded beforehand."""


class ClipGroups(Dataset[AnyClip]):
    """Data sets one behind the other, each of which is a group; a ``SampleKey`` counts through all of them.

    Args:
        parts: the groups.
        shares: how often each group comes in training, in any unit; None by its size.
        shown: the items of each group, by their number in the whole, that an evaluation shows; None for all.
        samples_of_a_pass: training samples that count as one pass; None for as many as there are.
        prefixes: what goes before the names of each group's clips and recordings, so that no two are alike.
    """

    def __init__(
        self,
        parts: Sequence[ClipDataset | CachedLatents],
        shares: Sequence[float] | None = None,
        shown: Sequence[Sequence[int]] | None = None,
        samples_of_a_pass: int | None = None,
        prefixes: Sequence[str] | None = None,
    ) -> None:
        self.parts = list(parts)
        self.prefixes = [""] * len(self.parts) if prefixes is None else list(prefixes)
        sizes = [len(part) for part in self.parts]
        self._first = [0, *accumulate(sizes)]
        self.shares = [float(size) for size in sizes] if shares is None else list(shares)
        self.samples_of_a_pass = sum(sizes) if samples_of_a_pass is None else samples_of_a_pass
        if shown is None:
            shown = [range(begin, begin + size) for begin, size in zip(self._first, sizes, strict=False)]
        self.shown = [list(items) for items in shown]

    def show_at_most(self, count: int) -> None:
        """Leaves out clips from the end of what an evaluation shows."""
        surplus = sum(map(len, self.shown)) - count
        for items in reversed(self.shown):
            gone = min(len(items), max(0, surplus))
            del items[len(items) - gone :]
            surplus -= gone

    @property
    def sets(self) -> dict[str, list[ClipDataset | CachedLatents]]:
        """The groups of each set, by what goes before its names; those of one keep one book of unusable clips."""
        found: dict[str, list[ClipDataset | CachedLatents]] = {}
        for prefix, part in zip(self.prefixes, self.parts, strict=True):
            found.setdefault(prefix, []).append(part)
        return found

    @property
    def only_part(self) -> ClipDataset | CachedLatents | None:
        """The one group, where there is one whose clips keep their names."""
        return self.parts[0] if self.prefixes == [""] else None

    def shown_names(self) -> list[str]:
        """What the clips that an evaluation shows are called, before anything is read."""
        return [
            prefix + part.fixed_name(item - first)
            for prefix, part, first, items in zip(self.prefixes, self.parts, self._first, self.shown, strict=False)
            if isinstance(part, ClipDataset)
            for item in items
        ]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, key: SampleKey | int) -> AnyClip:
        key = key if isinstance(key, SampleKey) else SampleKey(key)
        group = next(g for g, end in enumerate(self._first[1:]) if key.item < end)
        item = key.item - self._first[group]
        clip = self.parts[group][SampleKey(item, key.position, key.valid, key.cut_as, key.offset)]
        prefix = self.prefixes[group]
        if not prefix:
            return clip
        if isinstance(clip, DeliveredClip):
            held = clip.clip
            return replace(clip, clip=replace(held, id=prefix + held.id, video_id=prefix + held.video_id))
        return replace(clip, id=prefix + clip.id, video_id=prefix + clip.video_id)


class ClipBatches(Dataset[list[AnyClip]]):
    """Whole batches of clips by the keys of their clips."""

    def __init__(self, clips: ClipGroups) -> None:
        self._clips = clips

    def __getitem__(self, keys: Sequence[SampleKey]) -> list[AnyClip]:
        return [self._clips[key] for key in keys]


def collate(clips: Sequence[AnyClip], shape: ClipShape) -> ClipBatch:
    """One batch of clips that were all read, or all encoded beforehand."""
    encoded = [clip for clip in clips if isinstance(clip, DeliveredClip)]
    if encoded:
        return collate_prepared(encoded, shape)
    return collate_clips([clip for clip in clips if isinstance(clip, Clip)], shape)
