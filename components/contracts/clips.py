"""A batch of clips, what is generated for one, and the random numbers of a clip.

Legend for shapes: as in `components.contracts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from components.contracts.features import AudioFeatures, Movable, PreparedClips, TextFeatures

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


@dataclass(frozen=True)
class ClipBatch(Movable):
    """A batch of clips as the data modules deliver it.

    Attributes:
        ids: unique clip names, length B; they seed everything random that belongs to a clip in evaluation.
        video: uint8 ``[B, T, 3, H, W]``; frame n is on screen during ``[n / fps, (n + 1) / fps)`` seconds.
        fps: frames per second of ``video``.
        audio: float32 ``[B, S]`` mono in [-1, 1]; sample k is heard at ``k / sample_rate`` on the video's clock.
        sample_rate: samples per second of ``audio``.
        captions: text prompts, length B.
        video_ids: names of the recordings the clips were cut from, length B (intervals are over recordings).
        transcripts: spoken words, length B, empty for a clip without, or None if no clip has any.
        reference_audio: float32 ``[B, S_ref]`` another utterance of the same voice, zeros after its end, or None.
        scenes: descriptions of the acoustic scene, length B; None where the captions say it.
        reference_lengths: int64 ``[B]`` samples of ``reference_audio`` that are sound, 0 for a clip without
            reference; None exactly if ``reference_audio`` is.
        onsets: true onset times in seconds from the clip's start, one tuple per clip, or None where unknown.
        valid: bool ``[B]``; False marks a clip that was repeated only to give every rank the same number of batches.
        position: index of the batch's first sample in the endless training order (seeds its noise), or None.
        video_latents: ``[B, C, L, h, w]`` normalised latents when they were prepared beforehand, or None.
        audio_features: prepared audio features, or None.
        text_features: prepared text features, or None.
        prepared: what else was prepared; ``video``, ``audio`` and ``reference_audio`` are then empty.
        mute: bool ``[B]``; True marks a clip without sound track, whose ``audio`` is zeros because nobody knows what
            was to be heard. None if there is none.
        languages: of the transcripts, length B (``en``, ``zh``), empty where unknown, or None if no clip says it.
        subsets: parts of a benchmark that are also reported apart, length B, empty where unknown, or None likewise.
        face_boxes: of each clip float32 ``[T, 4]``, left, top, right and bottom of the face in fractions of the
            picture, NaN in frames without one; None for clips, or for all, where nobody said.
    """

    ids: Sequence[str]
    video: Tensor
    fps: float
    audio: Tensor
    sample_rate: int
    captions: Sequence[str]
    video_ids: Sequence[str]
    transcripts: Sequence[str] | None = None
    reference_audio: Tensor | None = None
    onsets: Sequence[tuple[float, ...]] | None = None
    valid: Tensor | None = None
    position: int | None = None
    video_latents: Tensor | None = None
    audio_features: AudioFeatures | None = None
    text_features: TextFeatures | None = None
    reference_lengths: Tensor | None = None
    scenes: Sequence[str] | None = None
    prepared: PreparedClips | None = None
    mute: Tensor | None = None
    languages: Sequence[str] | None = None
    subsets: Sequence[str] | None = None
    face_boxes: Sequence[Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> ClipBatch:
        """A copy of one of the clips as a batch of its own, without what was prepared of it."""
        own: dict[str, Any] = {}
        for each in fields(self):
            item = getattr(self, each.name)
            if isinstance(item, Tensor):
                own[each.name] = item[index : index + 1].clone()
            elif isinstance(item, Movable):
                own[each.name] = None
            elif isinstance(item, Sequence):
                own[each.name] = [item[index]]
        return replace(self, **own)

    @property
    def num_frames(self) -> int:
        """Frames of the clips, also where only their latents are there."""
        return self.video.shape[1] if self.prepared is None else self.prepared.num_frames

    @property
    def num_samples(self) -> int:
        """Sound samples of the clips, also where only their latents or features are there."""
        return self.audio.shape[1] if self.prepared is None else self.prepared.num_samples


@dataclass(frozen=True)
class Generation:
    """What a model made of a batch of clips; the only thing evaluation callbacks ever see.

    Attributes:
        video: float ``[B, T, 3, H, W]`` in [0, 1].
        fps: frames per second of ``video``.
        audio: ``[B, S]`` the driving sound (audio-to-video) or the generated sound (joint models), in [-1, 1].
        sample_rate: samples per second of ``audio``.
        reference: the clips the generation was conditioned on.
        variants: the same clips generated otherwise (``w0``, ``off_sync``, ``no_synccfg`` ...), if asked for.
        valid: bool ``[B]``; False for clips repeated to even out ranks.
    """

    video: Tensor
    fps: float
    audio: Tensor
    sample_rate: int
    reference: ClipBatch
    variants: Mapping[str, Generation] = field(default_factory=dict)
    valid: Tensor | None = None

    def valid_mask(self) -> Tensor:
        """Bool ``[B]``, all True where the batch carries no mask."""
        if self.valid is None:
            return torch.ones(len(self.reference), dtype=torch.bool, device=self.video.device)
        return self.valid


def clip_generator(clip_id: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the clip's name and the seed alone, whatever batch or rank the clip lands in."""
    return torch.Generator(device).manual_seed(mixed_seed(clip_id, seed))


def mixed_seed(*parts: object) -> int:
    """A 32-bit seed that changes with every part: a CPU generator looks at no more bits than that."""
    # blake2b, because Python's own hash of a string differs from run to run
    text = " ".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
