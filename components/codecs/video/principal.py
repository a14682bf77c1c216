"""A linear video codec: the strongest principal components of small blocks of space and time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from components.codecs.no_autocast import no_autocast
from components.contracts import VideoCodec
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.named_files import names_files
from components.weights.pretrained import load_small, write_small

_COLOURS = 3


class PrincipalCodec(VideoCodec):
    """Blocks of ``f`` frames by ``s`` by ``s`` pixels, each as its ``latent_channels`` strongest components.

    What a VAE learns, as far as a linear map can: channels are uncorrelated, and their spread falls from the mean
    colour over slow edges to fast motion, as natural pictures have it. One scale for all of them keeps these
    proportions, which velocity prediction and a spatial pyramid rely on: components of equal spread would make the
    faintest detail as loud as the picture. Latent 0 is the first image, taken as a block in which nothing moves.

    Components come from `PrincipalComponents`; a new codec has none and gives zeros.

    Args:
        latent_channels: components that are kept.
        temporal_factor: f, frames per latent frame.
        spatial_factor: s, pixels per latent pixel along each side.

    Raises:
        InputError: if more components are asked for than a block has values.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, latent_channels: int = 32, temporal_factor: int = 8, spatial_factor: int = 4) -> None:
        super().__init__()
        values = temporal_factor * spatial_factor**2 * _COLOURS
        if not 1 <= latent_channels <= values:
            raise InputError(
                f"latent_channels is {latent_channels}, but a block of {temporal_factor} frames of "
                f"{spatial_factor}x{spatial_factor} pixels has {values} values: give a number from 1 to {values}."
            )
        self.temporal_factor = temporal_factor
        self.spatial_factor = spatial_factor
        self.latent_channels = latent_channels
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(latent_channels, values))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    @names_files(folder=None)
    def from_pretrained(cls, folder: str | Path, sha256: Sha256 = None) -> PrincipalCodec:
        """Reads what `save_pretrained` wrote.

        Args:
            folder: as `components.weights.pretrained.resolve_folder` understands it.
            sha256: digests of files in the folder by their names (see `components.weights.digests`).

        Raises:
            InputError: if the folder or a file is missing, damaged or does not fit.
        """
        return load_small(cls, folder, sha256)

    def save_pretrained(self, folder: Path) -> None:
        """Writes ``config.json`` and ``model.safetensors`` into an existing folder."""
        config: dict[str, Any] = {
            "latent_channels": self.latent_channels,
            "temporal_factor": self.temporal_factor,
            "spatial_factor": self.spatial_factor,
        }
        write_small(self, config, folder)

    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, T, 3, H, W]`` in [-1, 1] to ``[B, C, L, H / s, W / s]``; deterministic, in float32.

        Raises:
            InputError: if the sides are not multiples of ``spatial_factor`` or T is not ``1 + f n``.
        """
        self._check_sides(video)
        s, f = self.spatial_factor, self.temporal_factor
        frames = video.float().transpose(1, 2)  # [B, 3, T, H, W]
        # all 24 bits also where a convolution's default is TensorFloat-32
        with no_autocast(video.device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # A block's product with every component is a convolution with the block's own stride: nothing is moved.
            kernel = rearrange(self.components * self.scale, "k (f c i j) -> k c f i j", f=f, c=_COLOURS, i=s, j=s)
            bias = -(self.components @ self.mean) * self.scale
            # the first image f times is the image times the sum over f
            latents = [F.conv3d(frames[:, :, :1], kernel.sum(dim=2, keepdim=True), bias, stride=(1, s, s))]
            if frames.shape[2] > 1:
                latents.append(F.conv3d(frames[:, :, 1:], kernel, bias, stride=(f, s, s)))
        return torch.cat(latents, dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of the kept components; the image is the mean of its block's frames."""
        with no_autocast(latents.device):
            blocks = latents.float().movedim(1, -1) / self.scale @ self.components + self.mean
        s, f = self.spatial_factor, self.temporal_factor
        video = rearrange(blocks, "b l h w (f c i j) -> b (l f) c (h i) (w j)", f=f, c=_COLOURS, i=s, j=s)
        # generated latents of the image need not hold still
        return torch.cat([video[:, :f].mean(dim=1, keepdim=True), video[:, f:]], dim=1)

    def blocks(self, video: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` cut into ``[B, L, H / s, W / s, f 3 s s]``, the first image f times.

        Raises:
            InputError: as `encode`.
        """
        self._check_sides(video)
        s, f = self.spatial_factor, self.temporal_factor
        frames = torch.cat([video[:, :1].expand(-1, f, -1, -1, -1), video[:, 1:]], dim=1)
        return rearrange(frames, "b (l f) c (h i) (w j) -> b l h w (f c i j)", f=f, i=s, j=s)

    def _check_sides(self, video: Tensor) -> None:
        _, t, _, height, width = video.shape
        s = self.spatial_factor
        if height % s or width % s:
            raise InputError(f"frames of {height}x{width} pixels do not fit the codec: both must be multiples of {s}")
        # raises where T is not 1 + f n
        self.num_latents(t)


class PrincipalComponents(nn.Module):
    """Mean and covariance of blocks, added up video by video, and the codec that follows from them.

    Args:
        codec: takes the components.
    """

    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, codec: PrincipalCodec) -> None:
        super().__init__()
        self.codec = codec
        values = len(codec.mean)
        # float64: a sum of millions of products, from which the square of the mean is taken
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(values, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(values, values, dtype=torch.float64))

    @torch.no_grad()
    def add(self, video: Tensor) -> None:
        """Counts the blocks of ``[B, T, 3, H, W]`` in [-1, 1] in."""
        blocks = self.codec.blocks(video.float()).flatten(0, -2)
        self.count += len(blocks)
        self.total += blocks.sum(dim=0, dtype=torch.float64)
        self.products += (blocks.T @ blocks).double()

    @torch.no_grad()
    def settle(self) -> float:
        """Gives the codec its components; the share of the blocks' variance that they keep.

        Every component's largest value is positive, so that the same videos give the same codec everywhere.

        Raises:
            InputError: if no block was counted, or the videos do not vary.
        """
        if not self.count:
            raise InputError("no video was seen, so there are no principal components: train for at least one step.")
        mean = self.total / self.count
        covariance = self.products / self.count - mean.outer(mean)
        variances, directions = torch.linalg.eigh(covariance)  # ascending
        kept = self.codec.latent_channels
        variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)[:, :kept].T
        spread = variances[:kept].mean().sqrt()
        if not spread:
            raise InputError("all videos are one colour: there are no principal components; give other data.")
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        self.codec.mean.copy_(mean)
        self.codec.components.copy_(directions * largest.sign())
        self.codec.scale.copy_(1 / spread)
        return float(variances[:kept].sum() / variances.sum())
