"""A dual tower whose outputs are clean latents: for latents that are wider than the towers.

A velocity contains the noise, all of it, so a tower can only give it if its tokens are wider than the latents they
carry. That holds for VAE latents, not for pixels. Clean pixels lie near a far smaller space ("Back to Basics: Let
Denoising Generative Models Denoise", arXiv 2511.13720). With ``x_s = (1 - s) x + s n`` the velocity follows exactly:
``n - x = (x_s - x) / s``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.backbones.harmony_transformer import HarmonyTransformer

TIMESTEP_OF_NOISE = 1000.0


class CleanHarmonyTransformer(HarmonyTransformer):
    """A `HarmonyTransformer` that gives velocities by way of clean latents.

    Where a row's first frame is given, the video tower says what is added to that frame standing still (`PixelCodec`
    repeats it in latent 0), so that what does not move need not pass through the tower. Train it with
    ``CrossTaskSynergy.min_sigma`` 1, the error of the clean latents: the error of the velocity is larger by 1 / s.
    """

    def forward(self, z_v: Tensor | None, z_a: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        """Velocities as `HarmonyTransformer.forward` gives them; 0 for what drives."""
        out_v, out_a = super().forward(z_v, z_a, *args, **kwargs)
        if out_v is not None and z_v is not None:
            out_v = out_v.float()
            given = kwargs.get("first_frame")
            if given is not None:
                out_v = out_v + z_v[:, :, :1].float() * given.view(-1, 1, 1, 1, 1)
            out_v = _velocity(z_v, out_v, kwargs["t_v"])
        if out_a is not None and z_a is not None:
            out_a = _velocity(z_a, out_a.float(), kwargs["t_a"])
        return out_v, out_a


def _velocity(noisy: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
    """``(x_s - x) / s``, with timesteps ``[B]`` or per latent ``[B, T]``."""
    sigma = (timesteps.float() / TIMESTEP_OF_NOISE).view(len(timesteps), 1, -1, *[1] * (noisy.ndim - 3))
    return torch.where(sigma > 0, (noisy.float() - clean) / sigma.clamp(min=1e-6), 0.0)
