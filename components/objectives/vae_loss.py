"""What a video VAE is trained by: the error of its round trip and how much its latents say.

Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), eq. 10, with the reconstruction as an error of pixels and
the divergence weighted, as latent diffusion has it (Rombach et al. 2022, appendix G).

Legend for shapes: B clips, T frames, H x W pixels, C latent channels, L latent frames, h x w latent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from components.codecs.posterior import DiagonalGaussian
from components.errors import InputError

Reconstruction = Literal["mse", "l1"]


@dataclass(frozen=True)
class VAETerms:
    """The terms of a batch, not weighted.

    Attributes:
        total: the weighted sum, a scalar with gradient.
        reconstruction: squared or absolute error, the mean over all pixel values (range 2: pixels are in [-1, 1]).
        kl: divergence of the posterior from a standard normal in nats, per pixel value of the clips.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor


@dataclass(frozen=True)
class VAELoss:
    """``reconstruction_weight * error + kl_weight * KL``, both divided by the number of pixel values of the clips.

    Latent diffusion sums both over a clip, which is the same up to one factor: its ``kl_weight`` of 1e-6, with ``l1``
    and a weight of 1, means the same here, at any size. Pyramid Flow's public recipe has ``mse`` with a weight of 10
    and 1e-12 on the KL summed over the positions of a channel and averaged over its 16: at 17 frames of 256x256
    (3.3 million values) that is a ``kl_weight`` of 2.1e-7 here.

    Attributes:
        reconstruction: ``mse`` or ``l1``.
        reconstruction_weight: of the pixel error.
        kl_weight: of the divergence.

    Raises:
        InputError: for an unknown error or a negative weight.
    """

    reconstruction: Reconstruction = "mse"
    reconstruction_weight: float = 1.0
    kl_weight: float = 1e-6

    def __post_init__(self) -> None:
        if self.reconstruction not in get_args(Reconstruction):
            choices = ", ".join(get_args(Reconstruction))
            raise InputError(f"VAELoss.reconstruction is '{self.reconstruction}'; use one of {choices}")
        for name in ("reconstruction_weight", "kl_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"VAELoss.{name} is {getattr(self, name)}; it must not be negative")

    def __call__(self, decoded: Tensor, pixels: Tensor, posterior: DiagonalGaussian) -> VAETerms:
        """The terms of a batch.

        Args:
            decoded: ``[B, 3, T, H, W]``, what the decoder made, not clamped.
            pixels: ``[B, 3, T, H, W]`` in [-1, 1].
            posterior: of the latents ``[B, C, L, h, w]``.
        """
        # in float32 whatever the network computed in: the KL is a small difference of large numbers
        difference = decoded.float() - pixels.float()
        error = (difference.square() if self.reconstruction == "mse" else difference.abs()).mean()
        kl = standard_normal_kl(posterior).sum() / pixels.numel()
        return VAETerms(self.reconstruction_weight * error + self.kl_weight * kl, error, kl)


def standard_normal_kl(posterior: DiagonalGaussian) -> Tensor:
    """``KL(posterior || N(0, 1))`` of each clip in nats, summed over its latents: float32 ``[B]``."""
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1)
