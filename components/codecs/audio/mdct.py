"""An audio codec that needs no training and loses nothing: the modified discrete cosine transform (MDCT).

Princen and Bradley, "Analysis/Synthesis Filter Bank Design Based on Time Domain Aliasing Cancellation" (1986), in the
factored form of Malvar, "Signal Processing with Lapped Transforms" (1992): rotate the samples mirrored about every
border of two blocks, then take the DCT-IV of each block. Both steps are orthogonal, so the inverse is the transpose;
the outer ends of a sound have no neighbour and are not rotated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.codecs.latent_statistics import ChannelNormalisation
from components.codecs.no_autocast import no_autocast
from components.contracts import AudioCodec
from components.errors import InputError


class MDCTCodec(AudioCodec):
    """One latent per block of ``hop`` samples, one channel per coefficient; with ``power`` 1 an orthonormal transform.

    Exact, but coefficients have signs that look random: a small generator learns `LogMelCodec`'s latents sooner.

    Args:
        sample_rate: rate the waveform must have.
        hop: samples per latent and coefficients per latent; even (16 kHz and 512: 31.25 Hz).
        power: coefficients c become ``sign(c) |c|^power``; below 1 quiet ones weigh more. 1 leaves them.
        scale: factor on the latents, so that their spread is near 1.
        statistics: file of `LatentStatistics` of the training set, used instead of ``scale``.

    Raises:
        InputError: if an argument cannot be used.
    """

    cosines: Tensor
    inner: Tensor
    outer: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        hop: int = 512,
        power: float = 1.0,
        scale: float = 1.0,
        statistics: str | Path | None = None,
    ) -> None:
        super().__init__()
        if hop < 2 or hop % 2:
            raise InputError(f"hop is {hop}, but must be even and positive: the borders of blocks are mirrored")
        if not 0 < power <= 1:
            raise InputError(f"power is {power}, but must be above 0 and at most 1")
        self.sample_rate = sample_rate
        self.latent_hop = self.latent_channels = hop
        self.power = power
        index = torch.arange(hop, dtype=torch.float64) + 0.5  # half samples: the DCT-IV's grid
        # symmetric and orthogonal, so it is its own inverse
        cosines = math.sqrt(2 / hop) * torch.cos(math.pi / hop * index[:, None] * index)
        angle = math.pi / 4 * (1 + index[: hop // 2] * 2 / hop)  # the sine window, from the border inwards
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("inner", angle.sin().float(), persistent=False)
        self.register_buffer("outer", angle.cos().float(), persistent=False)
        self.latent_identity = f"MDCT of {hop} at {sample_rate} Hz, power {power}"
        self.normalisation = (
            ChannelNormalisation.scaled(hop, scale)
            if statistics is None
            else ChannelNormalisation.from_file(statistics, hop, self.latent_identity)
        )

    def encode(self, waveform: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, S]`` to ``[B, hop, S // hop]``; deterministic, samples after the last whole block are not read."""
        del generators
        count = waveform.shape[-1] // self.latent_hop
        blocks = waveform[:, : count * self.latent_hop].float().unflatten(1, (count, self.latent_hop))
        with no_autocast(waveform.device):
            coefficients = self._rotated(blocks, forward=True) @ self.cosines  # [B, N, hop]
        result: Tensor = self.normalisation(_power(coefficients, self.power).transpose(1, 2))
        return result

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`, clipped to [-1, 1]."""
        coefficients = _power(self.normalisation.inverse(latents).transpose(1, 2), 1 / self.power)
        with no_autocast(latents.device):
            blocks = self._rotated(coefficients @ self.cosines, forward=False)
        return blocks.flatten(1).clamp(-1.0, 1.0)

    def _rotated(self, blocks: Tensor, forward: bool) -> Tensor:
        """Rotates each pair of samples mirrored about a border of ``blocks`` ``[B, N, hop]``, or rotates it back.

        DCT-IV functions continue evenly over a block's start and oddly over its end, hence the signs.
        """
        half = self.latent_hop // 2
        left, right = blocks[:, :-1].flip(-1)[..., :half], blocks[:, 1:, :half]  # from the border outwards
        # the transpose of a rotation is the rotation by minus the angle
        outer = self.outer if forward else -self.outer
        # clone: the outer ends of the sound stay as they are
        rotated = blocks.clone()
        rotated[:, :-1, half:] = (self.inner * left - outer * right).flip(-1)
        rotated[:, 1:, :half] = self.inner * right + outer * left
        return rotated


def _power(values: Tensor, power: float) -> Tensor:
    return values if power == 1 else values.sign() * values.abs() ** power
