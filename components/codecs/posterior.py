"""Taking latents from a VAE's posterior: its mean, or one draw per clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.codecs.causal_video_vae import DiagonalGaussian
from components.errors import InputError


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
    rows = [torch.randn(mean.shape[1:], generator=g, device=g.device, dtype=mean.dtype) for g in generators]
    return posterior.sample(torch.stack([row.to(mean.device) for row in rows]))
