"""The numbers that bring raw latents of the causal video VAE to unit spread: those of the releases, or of one's own.

Source: the Pyramid Flow specification, section 2. A first image alone has less spread than video, so latent 0 has
constants of its own; all channels share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.codecs.latent_statistics import LatentStatistics


@dataclass(frozen=True)
class LatentNormalisation:
    """Raw latents z to the backbone's: ``(z - shift) / std``, with constants of its own for latent 0 (the image).

    The defaults are those of the miniFLUX release; `SD3_NORMALISATION` has those of the SD3 release.

    Attributes:
        first_shift: shift of latent 0.
        first_std: divisor of latent 0.
        later_shift: shift of every later latent.
        later_std: divisor of every later latent.
    """

    first_shift: float = -0.04
    first_std: float = 1.8726
    later_shift: float = -0.2343
    later_std: float = 3.0986

    def normalise(self, latents: Tensor) -> Tensor:
        """Raw latents ``[B, C, L, h, w]``, from the video's start on, to normalised ones in float32."""
        shift, std = self._per_frame(latents)
        # ``sub`` makes a new tensor, which ``div_`` may change
        return latents.float().sub(shift).div_(std)

    def scale(self, deviations: Tensor) -> Tensor:
        """Deviations of raw latents ``[B, C, L, h, w]``, from the video's start on, to those of normalised ones."""
        _, std = self._per_frame(deviations)
        return deviations.float().div(std)

    def denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of `normalise`, in float32."""
        shift, std = self._per_frame(latents)
        return latents.float().mul(std).add_(shift)

    def uniform_scale(self, latents: Tensor) -> Tensor:
        """Normalised latents with latent 0 expressed in the normalisation of the later ones: differences compare."""
        uniform = latents.clone()
        offset = (self.first_shift - self.later_shift) / self.later_std
        # (z s1 + m1 - m) / s: latent 0 out of its own normalisation and into that of the rest
        uniform[:, :, 0].mul_(self.first_std / self.later_std).add_(offset)
        return uniform

    def _per_frame(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and std as ``[L, 1, 1]``."""
        shape = (latents.shape[2], 1, 1)
        shift = torch.full(shape, self.later_shift, device=latents.device)
        std = torch.full(shape, self.later_std, device=latents.device)
        # the released code normalises the image by other constants than video (the image alone has less spread)
        shift[0], std[0] = self.first_shift, self.first_std
        return shift, std


MINIFLUX_NORMALISATION = LatentNormalisation()
# the later latents' constants are those of miniFLUX
SD3_NORMALISATION = LatentNormalisation(first_shift=0.1490, first_std=1.8415)


@dataclass(frozen=True)
class VideoLatentStatistics:
    """Moments of raw latents over clips, exact however the clips are split into batches and over ranks.

    Attributes:
        first: of latent 0, all channels together.
        later: of the latents after it, likewise; of no value where clips are single images.
    """

    first: LatentStatistics
    later: LatentStatistics

    @classmethod
    def empty(cls) -> VideoLatentStatistics:
        """Statistics of no clip."""
        return cls(LatentStatistics.empty(1), LatentStatistics.empty(1))

    @classmethod
    def of(cls, latents: Tensor) -> VideoLatentStatistics:
        """Statistics of raw latents ``[B, C, L, h, w]``, from the video's start on."""
        first, later = latents[:, :, :1], latents[:, :, 1:]
        return cls(*(LatentStatistics.of(part.flatten(1).unsqueeze(1)) for part in (first, later)))

    def merged(self, other: VideoLatentStatistics) -> VideoLatentStatistics:
        """Statistics of both sets of clips together."""
        return VideoLatentStatistics(self.first.merged(other.first), self.later.merged(other.later))

    def over_ranks(self) -> VideoLatentStatistics:
        """Statistics of all ranks' clips, the same on every rank (collective where there are several processes)."""
        return VideoLatentStatistics(self.first.over_ranks(), self.later.over_ranks())

    def normalisation(self) -> LatentNormalisation:
        """Mean and standard deviation as constants; those of latent 0 for all where there are no others."""
        later = self.later if self.later.num_values else self.first
        values = (self.first.mean, self.first.std, later.mean, later.std)
        return LatentNormalisation(*(value.item() for value in values))
