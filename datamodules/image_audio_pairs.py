"""Images and sounds of the user's own: what ``predict`` turns into videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.errors import InputError
from components.media.reader import read_image, read_sound
from datamodules.clip_dataset import SILENCE_PEAK, Clip, collate_clips
from datamodules.clip_format import ClipFormat
from datamodules.consumed_sampler import EvaluationSampler, SampleKey
from datamodules.ranks import rank_and_world_size

_log = logging.getLogger("avsync.data")


class ImageAudioPairs(L.LightningDataModule):
    """Pairs of a first frame and a driving sound, each with a prompt.

    A batch's video is the first frame alone ``[B, 1, 3, H, W]``; its sound covers ``num_frames / fps`` seconds: longer
    sounds are cut, shorter ones continue in silence (which is reported).

    Args:
        images: image files (or videos, of which the first frame is taken).
        sounds: sound or video files, one per image.
        captions: prompts, one per image.
        num_frames: frames of the videos to make.
        fps: frames per second of the videos to make.
        height: rows; images are scaled to cover ``height x width`` and cropped about the centre.
        width: columns.
        sample_rate: sound samples per second.
        batch_size: pairs per batch and rank.
    """

    def __init__(
        self,
        images: list[str],
        sounds: list[str],
        captions: list[str],
        num_frames: int = 121,
        fps: float = 24.0,
        height: int = 384,
        width: int = 640,
        sample_rate: int = 16000,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        if not images:
            raise InputError("images is empty; give at least one image, with a sound and a caption for it")
        if not len(images) == len(sounds) == len(captions):
            raise InputError(
                f"there are {len(images)} images, {len(sounds)} sounds and {len(captions)} captions;"
                " give one of each per video"
            )
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self.form = ClipFormat(num_frames, fps, height, width, sample_rate)
        self.batch_size = batch_size
        self._pairs = _Pairs(images, sounds, captions, self.form)

    def predict_dataloader(self) -> DataLoader[Clip]:
        """The pairs in the order given."""
        return DataLoader(
            self._pairs,
            batch_size=self.batch_size,
            sampler=EvaluationSampler(len(self._pairs), *rank_and_world_size(self.trainer)),
            collate_fn=partial(collate_clips, form=self.form),
        )


class _Pairs(Dataset[Clip]):
    def __init__(self, images: Sequence[str], sounds: Sequence[str], captions: Sequence[str], form: ClipFormat) -> None:
        self._pairs = list(zip(map(Path, images), map(Path, sounds), captions, strict=True))
        self._form = form

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: SampleKey) -> Clip:
        image, sound, caption = self._pairs[key.item]
        name = f"{key.item:03d}_{image.stem}_{sound.stem}"
        return Clip(
            id=name,
            video_id=name,
            video=read_image(image, self._form.height, self._form.width)[None],
            audio=self._driving_sound(sound),
            caption=caption,
            transcript=None,
            onsets=None,
            position=key.position,
            valid=key.valid,
        )

    def _driving_sound(self, path: Path) -> Tensor:
        form = self._form
        sound = read_sound(path, form.sample_rate)
        missing = form.num_samples - len(sound)
        if missing > 0:
            _log.warning(
                "%s lasts %.3f s, the video %.3f s: it ends in silence",
                path,
                len(sound) / form.sample_rate,
                form.duration_s,
            )
        sound = torch.nn.functional.pad(sound, (0, max(0, missing)))[: form.num_samples]
        if float(sound.abs().max()) < SILENCE_PEAK:
            raise InputError(f"{path} is silent in its first {form.duration_s:.3f} s; give a sound to move to")
        return sound
