"""Images, sounds and words of the user's own: what ``predict`` turns into videos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.errors import InputError
from components.media.reader import read_image, read_sound, read_video
from datamodules.reading.clip_dataset import SILENCE_PEAK, Clip, collate_clips
from datamodules.reading.clip_format import ClipFormat
from datamodules.reading.order import EvaluationSampler, SampleKey, rank_and_world_size
from datamodules.reading.records import ClipRecord
from datamodules.reading.reference_voices import ReferenceVoices

_log = logging.getLogger("avsync.data")


class ImageAudioPairs(L.LightningDataModule):
    """First frames, each with a prompt and what else a model is driven by or told.

    A batch's video is the first frame alone ``[B, 1, 3, H, W]``; its sound covers ``num_frames / fps`` seconds: longer
    sounds are cut, shorter ones continue in silence (which is reported). Without sounds it is silence of that length,
    for models that make the sound themselves.

    Args:
        images: image files (or videos, of which the first frame is taken).
        sounds: sound or video files, one per image; None for joint generation.
        captions: prompts, one per image.
        scenes: descriptions of the acoustic scene, one per image; None where the prompts say it.
        transcripts: words to be spoken, one per image ("" for none); None if nothing is.
        references: sound or video files of the voices to speak with, one per image; None for no voice in particular.
        reference_s: length in seconds of the slot for the reference voice; what is longer is cut.
        num_frames: frames of the videos to make.
        fps: frames per second of the videos to make.
        height: rows; images are scaled to cover ``height x width`` and cropped about the centre.
        width: columns.
        sample_rate: sound samples per second.
        batch_size: images per batch and rank.
        whole_videos: ``images`` are videos, mute or not, that sounds are to be made for: take ``num_frames`` frames of
            each instead of the first one.
    """

    def __init__(
        self,
        images: list[str],
        captions: list[str],
        sounds: list[str] | None = None,
        scenes: list[str] | None = None,
        transcripts: list[str] | None = None,
        references: list[str] | None = None,
        reference_s: float = 5.0,
        num_frames: int = 121,
        fps: float = 24.0,
        height: int = 384,
        width: int = 640,
        sample_rate: int = 16000,
        batch_size: int = 1,
        whole_videos: bool = False,
    ) -> None:
        super().__init__()
        if not images:
            raise InputError("images is empty; give at least one image, with a caption for it")
        lists = {
            "sounds": sounds,
            "captions": captions,
            "scenes": scenes,
            "transcripts": transcripts,
            "references": references,
        }
        for name, given in lists.items():
            if given is not None and len(given) != len(images):
                raise InputError(f"there are {len(images)} images and {len(given)} {name}; give one per image")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self.form = ClipFormat(num_frames, fps, height, width, sample_rate)
        self.batch_size = batch_size
        told = [
            _Told(
                Path(image),
                captions[k],
                None if sounds is None else Path(sounds[k]),
                None if scenes is None else scenes[k],
                None if transcripts is None else transcripts[k],
                None if references is None else Path(references[k]),
            )
            for k, image in enumerate(images)
        ]
        voices = None if references is None else ReferenceVoices([], reference_s, sample_rate)
        self._pairs = _Pairs(told, self.form, voices, whole_videos)

    def predict_dataloader(self) -> DataLoader[Clip]:
        """The images in the order given."""
        return DataLoader(
            self._pairs,
            batch_size=self.batch_size,
            sampler=EvaluationSampler(len(self._pairs), *rank_and_world_size(self.trainer)),
            collate_fn=partial(collate_clips, form=self.form),
        )


@dataclass(frozen=True)
class _Told:
    """What is given for one video."""

    image: Path
    caption: str
    sound: Path | None
    scene: str | None
    transcript: str | None
    reference: Path | None


class _Pairs(Dataset[Clip]):
    def __init__(
        self, told: Sequence[_Told], form: ClipFormat, voices: ReferenceVoices | None, whole_videos: bool
    ) -> None:
        self._told, self._form, self._voices, self._whole_videos = told, form, voices, whole_videos

    def __len__(self) -> int:
        return len(self._told)

    def __getitem__(self, key: SampleKey) -> Clip:
        told = self._told[key.item]
        name = "_".join([f"{key.item:03d}", told.image.stem, *([told.sound.stem] if told.sound else [])])
        reference, length = None, 0
        if self._voices is not None and told.reference is not None:
            voice = ClipRecord(name, told.image, told.caption, name, reference=told.reference)
            reference, length = self._voices.draw(voice, None)
        return Clip(
            id=name,
            video_id=name,
            video=self._frames(told.image),
            audio=torch.zeros(self._form.num_samples) if told.sound is None else self._driving_sound(told.sound),
            caption=told.caption,
            transcript=told.transcript,
            onsets=None,
            position=key.position,
            valid=key.valid,
            reference=reference,
            reference_length=length,
            scene=told.scene,
        )

    def _frames(self, path: Path) -> Tensor:
        form = self._form
        if self._whole_videos:
            return read_video(path, 0.0, form.num_frames, form.fps, form.height, form.width)
        return read_image(path, form.height, form.width)[None]

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
