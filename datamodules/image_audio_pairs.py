"""Images, sounds and words of the user's own: what ``predict`` turns into videos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from PIL import ImageColor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.errors import InputError
from components.media.clock import ClipShape, longest_clip
from components.media.picture import Color
from components.media.reader import read_image, read_video
from components.media.sound_reader import SoundReader
from components.metrics.recordings.measures import SILENCE_PEAK
from datamodules.reading.clip_dataset import Clip, collate_clips
from datamodules.reading.order import EvaluationSampler, SampleKey, rank_and_world_size
from datamodules.reading.records import ClipRecord
from datamodules.reading.reference_voices import ReferenceVoices

_log = logging.getLogger("avsync.data")


class ImageAudioPairs(L.LightningDataModule):
    """First frames, each with a prompt and what else a model is driven by or given.

    A batch's video is the first frame alone ``[B, 1, 3, H, W]``; its sound covers the seconds of a clip: longer
    sounds are cut, shorter ones continue in silence (which is reported). Without sounds it is silence of that length,
    for models that make the sound themselves.

    Args:
        images: image files (or videos, of which the first frame is taken).
        sounds: sound or video files, one per image; None for joint generation.
        captions: prompts, one per image.
        scenes: descriptions of the acoustic scene, one per image; None where the prompts say it.
        transcripts: words to be spoken, one per image ("" for none); None if nothing is.
        references: sound or video files of the voices to speak with, one per image ("" for no voice in particular);
            None if none is given.
        reference_s: length in seconds of the slot for the reference voice; what is longer is cut.
        clip: what the videos to make look like; an experiment says it once, in its section ``clip``.
        batch_size: images per batch and rank.
        whole_videos: ``images`` are videos, mute or not, that sounds are to be made for: take a clip's frames of
            each instead of the first one.
        background: colour that is seen behind transparent pictures, by name or as ``#rrggbb``.
        names: what the videos are called, one per image; None numbers them after their files.

    Raises:
        InputError: if a file is missing, the lists differ in length or ``clip`` is not given; when the trainer sets the
            data up, if the model needs something else, does not read what is given or cannot make clips of this length.
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
        clip: ClipShape | None = None,
        batch_size: int = 1,
        whole_videos: bool = False,
        background: str = "white",
        names: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not images:
            raise InputError("images is empty; give at least one image, with a caption for it")
        if clip is None:
            raise InputError(
                "there is no section clip that says what the videos to make look like; give the one of the experiment "
                "the model was trained in (num_frames, fps, height, width, sample_rate)"
            )
        lists = {
            "sounds": sounds,
            "captions": captions,
            "scenes": scenes,
            "transcripts": transcripts,
            "references": references,
            "names": names,
        }
        for name, given in lists.items():
            if given is not None and len(given) != len(images):
                raise InputError(f"there are {len(images)} images and {len(given)} {name}; give one per image")
        voices_given = [file for file in references or () if file]
        for name, files in {"images": images, "sounds": sounds, "references": voices_given}.items():
            for file in map(Path, files or ()):
                # now, not after the clips before it have been made
                if not file.is_file():
                    state = "is a folder" if file.is_dir() else "does not exist"
                    raise InputError(f"{file} {state}; data.{name} has to name files that are there")
        if twice := [name for name, times in Counter(names or ()).items() if times > 1]:
            raise InputError(f"names has {twice[0]!r} more than once; each video needs a name of its own")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self.clip = clip
        lists["whole_videos"] = ["true"] if whole_videos else None
        every_model_reads = ("captions", "names")
        self._given_names = [
            name for name, given in lists.items() if given is not None and name not in every_model_reads
        ]
        self.batch_size = batch_size
        pairs = [
            _Given(
                _name(k, image, sounds) if names is None else names[k],
                Path(image),
                captions[k],
                None if sounds is None else Path(sounds[k]),
                None if scenes is None else scenes[k],
                None if transcripts is None else transcripts[k],
                Path(references[k]) if references is not None and references[k] else None,
            )
            for k, image in enumerate(images)
        ]
        voices = None if references is None else ReferenceVoices([], reference_s, self.clip.sample_rate)
        self._pairs = _Pairs(pairs, self.clip, voices, whole_videos, _color(background))

    def setup(self, stage: str) -> None:
        """Compares what is given with what the model generates from, before anything is generated.

        Raises:
            InputError: if something is missing or would be ignored, or the codec cannot make clips of this length.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        check_given = getattr(model, "check_given", None)
        if check_given is not None:
            check_given(self._given_names)
        frames, step = self.clip.num_frames, getattr(model, "frame_step", None) or 1
        if (frames - 1) % step:
            below = longest_clip(frames, step)
            raise InputError(
                f"clip.num_frames is {frames}, but the model's video codec makes 1 + a multiple of {step} frames: set "
                f"it to {f'{below} or ' if below > 1 else ''}{below + step}"
            )

    def predict_dataloader(self) -> DataLoader[Clip]:
        """The images in the order given."""
        return DataLoader(
            self._pairs,
            batch_size=self.batch_size,
            sampler=EvaluationSampler(len(self._pairs), *rank_and_world_size(self.trainer)),
            collate_fn=partial(collate_clips, shape=self.clip),
        )


@dataclass(frozen=True)
class _Given:
    """What is given for one video."""

    name: str
    image: Path
    caption: str
    sound: Path | None
    scene: str | None
    transcript: str | None
    reference: Path | None


def _name(number: int, image: str, sounds: Sequence[str] | None) -> str:
    """After the files; the number keeps names apart where files are given twice."""
    return "_".join([f"{number:03d}", Path(image).stem, *([Path(sounds[number]).stem] if sounds else [])])


def _color(name: str) -> Color:
    problem = f"background is '{name}', which is no colour: give a name such as black, or #rrggbb"
    try:
        color = ImageColor.getrgb(name)
    except ValueError:
        raise InputError(problem) from None
    if len(color) != 3:  # a fourth number says how transparent it is
        raise InputError(problem)
    return color


class _Pairs(Dataset[Clip]):
    def __init__(
        self,
        given: Sequence[_Given],
        shape: ClipShape,
        voices: ReferenceVoices | None,
        whole_videos: bool,
        background: Color,
    ) -> None:
        self._given, self._shape, self._voices, self._whole_videos = given, shape, voices, whole_videos
        self._background = background

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, key: SampleKey) -> Clip:
        given = self._given[key.item]
        name = given.name
        reference, length = None, 0
        if self._voices is not None:
            voice = ClipRecord(name, given.image, given.caption, name, reference=given.reference)
            # without a generator: the beginning of the voice, the same in every run
            reference, length = self._voices.draw(voice, None)
        return Clip(
            id=name,
            video_id=name,
            video=self._frames(given.image),
            audio=torch.zeros(self._shape.num_samples) if given.sound is None else self._driving_sound(given.sound),
            caption=given.caption,
            transcript=given.transcript,
            onsets=None,
            position=key.position,
            valid=key.valid,
            reference=reference,
            reference_length=length,
            scene=given.scene,
        )

    def _frames(self, path: Path) -> Tensor:
        shape = self._shape
        if self._whole_videos:
            return read_video(path, 0.0, shape.num_frames, shape.fps, shape.height, shape.width, self._background)
        return read_image(path, shape.height, shape.width, self._background)[None]

    def _driving_sound(self, path: Path) -> Tensor:
        shape = self._shape
        # a video's second 0 is that of its picture, which its sound may follow late
        with SoundReader(path) as track:
            begin_s, end_s = max(0.0, track.span_s[0]), track.span_s[1]
            late = min(round(begin_s * shape.sample_rate), shape.num_samples)
            held = max(0, min(round(end_s * shape.sample_rate), shape.num_samples) - late)
            sound = track.read(begin_s, held, shape.sample_rate)
        if late + held < shape.num_samples:
            _log.warning("%s lasts %.3f s, the video %.3f s: it ends in silence", path, end_s, shape.duration_s)
        # the whole clip: what is missing is silence
        sound = torch.nn.functional.pad(sound, (late, shape.num_samples - late - held))
        if float(sound.abs().max()) < SILENCE_PEAK:
            raise InputError(f"{path} is silent in its first {shape.duration_s:.3f} s; give a sound to move to")
        return sound
