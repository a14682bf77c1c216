"""Clips out of nothing: the real command line trains on a machine that can read no media files."""

from __future__ import annotations

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from components.contracts import ClipBatch
from components.media.clock import ClipShape

_WORDS = ("a bouncing ball", "a mallet striking a bar", "a speaking face")


class _Batches(Dataset[ClipBatch]):
    """Batch n is a function of n."""

    def __init__(self, clip: ClipShape, batch_size: int, first: int, num: int) -> None:
        self.clip, self.batch_size, self.first, self.num = clip, batch_size, first, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, number: int) -> ClipBatch:
        """Noise as pictures and as sound."""
        if number >= self.num:
            raise IndexError(number)
        number += self.first
        generator, clip, rows = torch.Generator().manual_seed(number), self.clip, self.batch_size
        shape = (rows, clip.num_frames, 3, clip.height, clip.width)
        names = [f"clip {number * rows + row}" for row in range(rows)]
        return ClipBatch(
            ids=names,
            video=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
            fps=clip.fps,
            audio=0.1 * torch.randn(rows, clip.samples_of(clip.num_frames), generator=generator),
            sample_rate=clip.sample_rate,
            captions=[_WORDS[row % len(_WORDS)] for row in range(rows)],
            video_ids=names,
            valid=torch.ones(rows, dtype=torch.bool),
            position=number * rows,
        )


class RandomClips(L.LightningDataModule):
    """Batches of noise with captions; a resumed run goes on where the first one stopped.

    Args:
        clip: what every clip looks like.
        batch_size: clips per batch.
        num_batches: of one pass.
    """

    def __init__(self, clip: ClipShape | None = None, batch_size: int = 4, num_batches: int = 8) -> None:
        super().__init__()
        self.clip = clip or ClipShape()
        self.batch_size, self.num_batches = batch_size, num_batches
        self._seen = 0

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """The batches that no step has seen yet."""
        return self._loader(self._seen)

    def val_dataloader(self) -> DataLoader[ClipBatch]:
        """Two batches."""
        return self._loader(1000, 2)

    def on_before_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Counts training batches by their position."""
        if batch.position is not None and self.trainer is not None and self.trainer.training:
            self._seen = batch.position // len(batch) + 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were trained on."""
        return {"seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on after them."""
        self._seen = state_dict["seen"]

    def _loader(self, first: int, num: int | None = None) -> DataLoader[ClipBatch]:
        batches = _Batches(self.clip, self.batch_size, first, self.num_batches if num is None else num)
        return DataLoader(batches, batch_size=None)
