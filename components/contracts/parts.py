"""Base classes of the parts that a user can exchange, and what judges report.

Legend for shapes: as in `components.contracts`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components.contracts.features import AudioFeatures, LatentMoments, TextFeatures
from components.errors import InputError


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
