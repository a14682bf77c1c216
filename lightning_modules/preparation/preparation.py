"""Encoding all training clips of an experiment into a cache: this process's share of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from components.errors import InputError
from datamodules.prepared.store import Store
from datamodules.reading.clip_dataset import Clip, ClipDataset
from datamodules.reading.order import SampleKey
from lightning_modules.preparation.clip_encoder import ClipEncoder, unusable

_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Where launchers say which process of how many this is: torchrun and Slurm."""
_TOGETHER = 8
"""Clips that go through a network together: always as many, for the last bits of a result may depend on it."""


@dataclass(frozen=True)
class Preparation:
    """What is encoded into what.

    Attributes:
        store: the cache.
        clips: of the training recordings, with ``offsets`` fixed clips of each.
        encoder: the frozen parts.
        num_workers: processes that read clips.
        on_corrupt: "error" ends the run at a recording that cannot be used, "skip" notes it and goes on.
        max_corrupt_fraction: share of the clips that may be skipped.
    """

    store: Store
    clips: ClipDataset
    encoder: ClipEncoder
    num_workers: int
    on_corrupt: str
    max_corrupt_fraction: float

    def run(self) -> bool:
        """Encodes the shards of this process; True if the cache is whole then.

        Raises:
            InputError: if a recording or the disk cannot be used, or another process works on the same shard.
        """
        rank, world_size = place_among_processes()
        plan = self.store.plan
        lost: list[InputError] = []
        mine = [shard for shard in range(rank, plan.num_shards, world_size) if not self.store.has(shard)]
        for shard in tqdm(mine, desc="encoding", unit="shard", disable=not mine):
            self.store.write(shard, self._items(plan.items_of(shard), lost))
            self.clips.forget()
        return self.store.finish()

    def _items(self, numbers: range, lost: list[InputError]) -> Iterator[bytes]:
        """Items as bytes, in order.

        Args:
            numbers: of one shard.
            lost: why clips of earlier shards cannot be used; those of this one are added. The share that may be lost
                is one of all clips, as in training: a shard of few clips has room for none.
        """
        plan = self.store.plan
        keys = [
            SampleKey(item=number // plan.offsets, position=0, offset=number % plan.offsets)
            for number in numbers
            if number < plan.num_clips
        ]
        dtype = getattr(torch, plan.dtype)
        for read in self._read(keys):
            encoded = iter(self.encoder.encode([clip for clip in read if isinstance(clip, Clip)]))
            for clip in read:
                # what was asked to be passed over is no part of the share
                if isinstance(clip, InputError) and clip.fault not in self.clips.unusable.expected:
                    lost.append(clip)
                    if len(lost) > self.max_corrupt_fraction * plan.num_clips:
                        raise InputError(
                            f"{len(lost)} of {plan.num_clips} clips cannot be used, more than data.max_corrupt_fraction"
                            f" = {self.max_corrupt_fraction:g} allows; the last one: {clip}"
                        )
                item = unusable(str(clip)) if isinstance(clip, InputError) else next(encoded)
                yield item.narrow(dtype).to_bytes()
        if plan.num_clips in numbers:
            yield self.encoder.empty().narrow(dtype).to_bytes()

    def _read(self, keys: Sequence[SampleKey]) -> Iterator[list[Clip | InputError]]:
        """Clips in batches that are the same in every run; a reason in place of one that cannot be used."""
        batches = [list(range(len(keys)))[first : first + _TOGETHER] for first in range(0, len(keys), _TOGETHER)]
        if not batches:
            return iter(())
        loader: DataLoader[Any] = DataLoader(
            _Read(self.clips, keys, self.on_corrupt == "skip"),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=list,
            generator=torch.Generator().manual_seed(0),
        )
        return iter(loader)


@dataclass(frozen=True)
class _Read(Dataset[Clip | InputError]):
    clips: ClipDataset
    keys: Sequence[SampleKey]
    skips: bool

    def __getitem__(self, index: int) -> Clip | InputError:
        try:
            return self.clips.exactly(self.keys[index])
        except InputError as reason:
            if not self.skips and reason.fault not in self.clips.unusable.expected:
                raise
            return InputError(str(reason), reason.fault)  # without what it was raised from


def place_among_processes() -> tuple[int, int]:
    """This process and how many there are, as the launcher says.

    Raises:
        InputError: if what it says is no such pair.
    """
    for rank, world_size in _RANKS:
        if rank in os.environ and world_size in os.environ:
            found = os.environ[rank], os.environ[world_size]
            if not all(text.isdigit() for text in found) or int(found[0]) >= int(found[1]):
                raise InputError(
                    f"{rank}={found[0]} and {world_size}={found[1]} name no process of several; unset them"
                )
            return int(found[0]), int(found[1])
    return 0, 1
