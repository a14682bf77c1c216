"""Taking latents from a VAE's posterior: its mean, or one draw per clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from components.errors import InputError

_LOGVAR_RANGE = (-30.0, 20.0)  # as in the released VAEs of both video models: exp(0.5 logvar) cannot overflow


@dataclass(frozen=True)
class DiagonalGaussian:
    """The posterior over latents: ``mean`` and ``logvar``, both ``[B, C, L, h, w]``, before normalisation."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Self:
        """Splits ``[B, 2C, L, h, w]`` into mean and log-variance, the latter clamped to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*_LOGVAR_RANGE))

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[B, C, L, h, w]``."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise`` for standard normal ``noise`` ``[B, C, L, h, w]``."""
        return torch.addcmul(self.mean, self.std, noise)


def latents_of(posterior: DiagonalGaussian, generators: Sequence[torch.Generator] | None) -> Tensor:
    """The posterior's mean, or a sample whose row b is drawn by generator b alone (on that generator's device).

    Raises:
        InputError: if there are not as many generators as clips.
    """
    mean = posterior.mean
    if generators is None:
        return mean
    if len(generators) != len(mean):
        raise InputError(f"{len(generators)} generators were given for {len(mean)} clips; give one for each clip")
    # one generator per clip: its latents do not depend on the batch it is in
    rows = [torch.randn(mean.shape[1:], generator=g, device=g.device, dtype=mean.dtype) for g in generators]
    return posterior.sample(torch.stack([row.to(mean.device) for row in rows]))
