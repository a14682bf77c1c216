"""What codecs and encoders make of clips, as it is handed on: latents, tokens of sound and text.

Legend for shapes: as in `components.contracts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor


class Movable:
    """Moves the tensors of a dataclass between devices (Lightning calls ``to`` on whole batches)."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same value with every tensor on ``device``."""
        return self._mapped(lambda item: item.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same value in page-locked memory, from where a GPU fetches it by itself (loaders call it)."""
        return self._mapped(lambda item: item.pin_memory())

    def _mapped(self, change: Callable[[Any], Any]) -> Self:
        changed = copy(self)
        for name, item in vars(self).items():
            if isinstance(item, Tensor | Movable):
                # frozen dataclasses forbid assignment, but this one is still ours alone
                object.__setattr__(changed, name, change(item))
        return changed


@dataclass(frozen=True)
class AudioFeatures(Movable):
    """Audio tokens on the time axis of the clip.

    Attributes:
        tokens: ``[B, N, D]``.
        rate_hz: tokens per second.
        mask: bool ``[B, N]``, True where the token covers real sound (not padding).
        first_center_s: time of the centre of token 0; token j is centred at ``first_center_s + j / rate_hz``.
    """

    tokens: Tensor
    rate_hz: float
    mask: Tensor
    first_center_s: float

    def centers_s(self) -> Tensor:
        """Centre times of the tokens in seconds: float32 ``[N]``."""
        index = torch.arange(self.tokens.shape[1], device=self.tokens.device, dtype=torch.float32)
        return self.first_center_s + index / self.rate_hz

    def rows(self, index: Tensor | slice) -> AudioFeatures:
        """The features of the clips ``index``."""
        return replace(self, tokens=self.tokens[index], mask=self.mask[index])


Span = tuple[int, int]
"""Where the last real token of a text ends, and how many of its tokens are real: twice the same where none is masked
in between."""


@dataclass(frozen=True)
class TextFeatures(Movable):
    """Text tokens and what is padding among them.

    Attributes:
        tokens: ``[B, M, D]``.
        mask: bool ``[B, M]``, True for real tokens.
        pooled: ``[B, P]``, or None.
        known_spans: the texts' `Span`, from whoever made them on the host; None reads the mask when they are asked for.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None = None
    known_spans: tuple[Span, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The `Span` of each text, without waiting for the device where they are known, and once where not."""
        if self.known_spans is None:
            real = self.mask.bool()
            ends = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(dim=1)
            read = torch.stack([ends, real.sum(dim=1)], dim=1).tolist()
            object.__setattr__(self, "known_spans", tuple((end, count) for end, count in read))
        assert self.known_spans is not None
        return self.known_spans

    @property
    def longest(self) -> int:
        """Positions up to the last real token of all texts, at least 1, so that no tensor is empty."""
        return max([1, *(end for end, _ in self.spans)])

    def trimmed(self) -> tuple[Tensor, Tensor | None]:
        """Tokens and mask without positions that are padding in every text; the mask is None if no padding is left.

        Exact where real tokens never attend to padding and the text is discarded at the end.
        """
        longest = self.longest
        is_whole = all(count == longest for _, count in self.spans)
        return self.tokens[:, :longest], None if is_whole else self.mask[:, :longest].bool()

    def rows(self, index: Tensor | slice) -> TextFeatures:
        """The features of the prompts ``index``."""
        pooled = None if self.pooled is None else self.pooled[index]
        spans = self.spans[index] if isinstance(index, slice) else None
        return TextFeatures(self.tokens[index], self.mask[index], pooled, spans)


@dataclass(frozen=True)
class LatentMoments(Movable):
    """Normalised latents as a codec knows them: the ``mean`` of a posterior and its ``std``, None for one value."""

    mean: Tensor
    std: Tensor | None = None

    def draw(self, seeds: Sequence[int] | None) -> Tensor:
        """The mean, or one draw for every clip.

        Args:
            seeds: one for each clip; None takes the mean. Latents are drawn one after the other, so that the first of
                a clip are the same however many follow.
        """
        if seeds is None or self.std is None:
            return self.mean
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # [B, C, N, ...]: latent by latent, on the CPU, whose numbers every machine has
        shape = self.mean.shape[1:2] + self.mean.shape[3:]
        noise = [
            torch.stack([torch.randn(shape, generator=g) for _ in range(self.mean.shape[2])], dim=1) for g in generators
        ]
        return torch.addcmul(self.mean, self.std, torch.stack(noise).to(self.mean))


@dataclass(frozen=True)
class PreparedClips(Movable):
    """What ``avsync prepare`` knows of B clips beside the prepared fields of `ClipBatch`; None for what a model lacks.

    Attributes:
        num_frames: frames of the pictures, which are not there any more; 0 for sounds alone.
        num_samples: samples of the sound, which is not there either.
        sounding: bool ``[B]``, clips that are not silent.
        moving: bool ``[B]``, clips whose picture moves.
        video_std: deviations of the posterior whose means are `ClipBatch.video_latents`; None where that is one value.
        audio_latents: ``[B, C, N]`` normalised latents of the sound: means of their posterior.
        audio_std: their deviations.
        reference_latents: ``[B, C, N_ref]`` of the reference voices.
        scene_features: texts of the acoustic scenes.
        transcript_features: spoken words.
        null_text: the empty prompt, one row.
        null_transcript: the empty transcript, one row.
    """

    num_frames: int
    num_samples: int
    sounding: Tensor
    moving: Tensor
    video_std: Tensor | None = None
    audio_latents: Tensor | None = None
    audio_std: Tensor | None = None
    reference_latents: Tensor | None = None
    scene_features: TextFeatures | None = None
    transcript_features: TextFeatures | None = None
    null_text: TextFeatures | None = None
    null_transcript: TextFeatures | None = None
