"""The value objects and base classes that every part of avsync shares.

Legend for shapes: B clips, T video frames, S audio samples, C channels, H x W pixels, L latent frames, h x w latent
pixels, N audio tokens, M text tokens, D features.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.features import AudioFeatures, LatentMoments, Movable, PreparedClips, TextFeatures

__all__ = [
    "MODALITIES",
    "AudioCodec",
    "AudioEncoder",
    "AudioFeatures",
    "ClipBatch",
    "Generation",
    "LatentMoments",
    "MetricResult",
    "Modality",
    "PreparedClips",
    "ReportsProgress",
    "ReportsResults",
    "SyncScorer",
    "TextEncoder",
    "TextFeatures",
    "TranscriptEncoder",
    "V2AModel",
    "VideoCodec",
    "clip_generator",
    "mixed_seed",
]

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


class VideoCodec(nn.Module, ABC):
    """Pixels to latents and back. Latents are normalised: ready for the backbone as they are.

    A clip of ``T = 1 + temporal_factor * (L - 1)`` frames has L latent frames; latent 0 is the first image alone.
    """

    temporal_factor: int
    spatial_factor: int
    latent_channels: int

    @abstractmethod
    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, T, 3, H, W]`` in [-1, 1] to latents ``[B, C, L, h, w]``; ``generators`` draw the posterior per clip."""

    def moments(self, video: Tensor) -> LatentMoments:
        """As `encode`, before anything is drawn; a codec with a posterior gives its deviations too."""
        return LatentMoments(self.encode(video))

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``[B, C, L, h, w]`` to video ``[B, T, 3, H, W]`` in [-1, 1]."""

    def num_latents(self, frames: int) -> int:
        """Latent frames of a clip of ``frames`` frames.

        Raises:
            InputError: if ``frames - 1`` is not a multiple of the temporal factor.
        """
        factor = self.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            below = max(1, 1 + (frames - 1) // factor * factor)
            raise InputError(
                f"clips of {frames} frames do not fit the codec, which takes 1 + a multiple of {factor}: "
                f"set clip.num_frames to {below} or {below + factor}"
            )
        return 1 + (frames - 1) // self.temporal_factor

    def num_frames(self, latents: int) -> int:
        """Frames of a clip of ``latents`` latent frames."""
        return 1 + (latents - 1) * self.temporal_factor

    def still(self, image: Tensor, num_latents: int) -> Tensor:
        """Latents ``[B, C, L, h, w]`` of a clip in which ``image`` ``[B, 3, H, W]`` never changes.

        The whole clip is encoded: later latents of a picture that stays differ from its first one.
        """
        return self.encode(image.unsqueeze(1).expand(-1, self.num_frames(num_latents), -1, -1, -1))

    def uniform_scale(self, latents: Tensor) -> Tensor:
        """Latents with frame 0 expressed in the normalisation of the later frames, so that differences compare.

        The identity for codecs with one normalisation for all frames.
        """
        return latents


class AudioCodec(nn.Module, ABC):
    """Waveforms to latents and back. Latents are normalised: ready for the backbone as they are.

    Latent j stands for the samples ``[j * latent_hop, (j + 1) * latent_hop)``. How many there are is decided by the
    clip's duration and never by a file's length: cut or pad the waveform with `fit` first.

    Attributes:
        sample_rate: samples per second that go in and come out.
        latent_hop: samples per latent.
        latent_channels: width of a latent.
        latent_identity: names all that latents depend on before they are normalised; statistics and prepared latents
            of another identity are worthless.
    """

    sample_rate: int
    latent_hop: int
    latent_channels: int
    latent_identity: str

    def __init__(self) -> None:
        super().__init__()
        self._silence: dict[int, Tensor] = {}

    @abstractmethod
    def encode(self, waveform: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, S]`` in [-1, 1] to ``[B, C, S // latent_hop]``; ``generators`` draw the posterior per clip."""

    def moments(self, waveform: Tensor) -> LatentMoments:
        """As `encode`, before anything is drawn; a codec with a posterior gives its deviations too."""
        return LatentMoments(self.encode(waveform))

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """``[B, C, N]`` to ``[B, N * latent_hop]`` in [-1, 1]."""

    @property
    def latent_rate_hz(self) -> float:
        """Latents per second."""
        return self.sample_rate / self.latent_hop

    def num_latents_for(self, duration_s: float) -> int:
        """How many whole latents fit into ``duration_s`` seconds (121 frames at 24 fps: 157 at 31.25 Hz)."""
        # whole latents only; 1e-6 so that rounding does not lose one
        return math.floor(duration_s * self.latent_rate_hz + 1e-6)

    def latent_centers_s(self, num_latents: int) -> Tensor:
        """Times of the latents' centres in seconds, ``(j + 1/2) * latent_hop / sample_rate``: float32 ``[N]``."""
        return (torch.arange(num_latents) + 0.5) / self.latent_rate_hz

    def fit(self, waveform: Tensor, num_latents: int, sample_rate: int | None = None) -> Tensor:
        """``waveform`` ``[B, S]`` cut, or padded with silence, to the samples of ``num_latents`` latents.

        Raises:
            InputError: if ``sample_rate`` is given and is not the codec's.
        """
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise InputError(
                f"{type(self).__name__} works at {self.sample_rate} Hz but got audio at {sample_rate} Hz: "
                "set clip.sample_rate to match"
            )
        # a negative pad cuts
        return torch.nn.functional.pad(waveform, (0, num_latents * self.latent_hop - waveform.shape[-1]))

    def silence(self, num_latents: int) -> Tensor:
        """Latents ``[C, N]`` of digital silence (the muted driver of SyncCFG); computed once per length."""
        # codecs without weights have buffers alone, and some have neither
        device = next(itertools.chain(self.buffers(), self.parameters()), torch.zeros(())).device
        if num_latents not in self._silence:
            with torch.no_grad():
                waveform = torch.zeros(1, num_latents * self.latent_hop, device=device)
                self._silence[num_latents] = self.encode(waveform)[0]
        # a copy, because a tensor made in inference mode could not enter training
        return self._silence[num_latents].to(device, copy=True)


class AudioEncoder(nn.Module, ABC):
    """Waveform to audio tokens; ``dim`` is their width."""

    dim: int

    @abstractmethod
    def forward(self, waveform: Tensor, sample_rate: int) -> AudioFeatures:
        """``[B, S]`` in [-1, 1] to tokens ``[B, N, dim]``."""


class TextEncoder(nn.Module, ABC):
    """Prompts to text tokens; ``dim`` is their width, ``pooled_dim`` that of the pooled vector (0: there is none)."""

    dim: int
    pooled_dim: int

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """B prompts to tokens ``[B, M, dim]`` and pooled ``[B, pooled_dim]``; the empty prompt is the null text."""


class TranscriptEncoder(TextEncoder):
    """Spoken words, letter by letter, to tokens ``[B, M, dim]`` without a pooled vector."""

    pooled_dim = 0

    @abstractmethod
    def forward(self, prompts: Sequence[str], ids: Sequence[str] | None = None) -> TextFeatures:
        """B transcripts to tokens ``[B, M, dim]``; the empty one is the null transcript.

        Args:
            prompts: what is said in each clip.
            ids: the clips' names, for error messages.

        Raises:
            InputError: if a transcript is too long, naming the clip.
        """


class V2AModel(nn.Module, ABC):
    """Video to audio: the inverse that CycleSync needs."""

    @abstractmethod
    def forward(
        self,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, int]:
        """``[B, T, 3, H, W]`` in [0, 1] to a waveform ``[B, S]`` over ``[0, T / fps]`` s, and its sample rate."""

    def identifying_settings(self) -> dict[str, object]:
        """What the sound depends on beside weights: scores are comparable only where it is the same.

        By default all public attributes that are plain values.
        """
        public = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return {name: value for name, value in public.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    """Whether a value can stand in a JSON file as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


class SyncScorer(nn.Module, ABC):
    """Scores how well picture and sound of a clip agree."""

    @abstractmethod
    def forward(self, video: Tensor, fps: float, audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """``[B, T, 3, H, W]`` in [0, 1] and ``[B, S]`` to named scores ``[B]``."""


@dataclass(frozen=True)
class MetricResult:
    """One row of ``results.json``.

    Attributes:
        value: the mean.
        ci95: low and high end of its 95 % interval, in the unit of ``value``.
        n: how many items (recordings or clips) the interval is over.
        details: what else belongs to the entry (tolerance, counts, other tolerances ...), JSON-serialisable.
    """

    value: float
    ci95: tuple[float, float]
    n: int
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def interval_text(self) -> str:
        """``low to high``, or a dash where there is no interval."""
        low, high = self.ci95
        return f"{low:.2f} to {high:.2f}" if math.isfinite(low + high) else "–"


@runtime_checkable
class ReportsResults(Protocol):
    """A callback, or a module that judges itself, whose findings go into ``results.json`` and the report page.

    Attributes:
        results: metric name -> result of the last evaluation (the same on every rank).
        clip_rows: clip id -> whatever is known of that clip, JSON-serialisable; rank 0 holds all clips.
    """

    results: dict[str, MetricResult]
    clip_rows: dict[str, dict[str, object]]


class ReportsProgress(Protocol):
    """Called as ``progress(steps)`` by long loops in ``components`` so that a caller can draw a bar."""

    def __call__(self, steps: int, /) -> object:
        """``steps`` more steps are done."""
