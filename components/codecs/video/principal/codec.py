"""A video codec of principal components: small blocks of space and time by their strongest directions.

Encoding is linear. Decoding is linear too, or learnt: then a small causal network adds what the components leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from components.codecs.no_autocast import no_autocast
from components.codecs.video.causal_vae.blocks import CausalConv3d, CausalResnetBlock, CausalStream, FrameGroupNorm
from components.contracts import VideoCodec
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.named_files import names_files
from components.weights.pretrained import load_small, write_small

_COLOURS = 3
_GROUPS = 8
_APART = "decoder"


class PrincipalCodec(VideoCodec):
    """Blocks of ``f`` frames by ``s`` by ``s`` pixels, each as its ``latent_channels`` strongest components.

    What a VAE learns, as far as a linear map can: channels are uncorrelated, and their spread falls from the mean
    colour over slow edges to fast motion, as natural pictures have it. One scale for all of them keeps these
    proportions, which velocity prediction and a spatial pyramid rely on: components of equal spread would make the
    faintest detail as loud as the picture. Latent 0 is the first image, taken as a block in which nothing moves.

    Components come from `PrincipalComponents`; a new codec has none and gives zeros. With a learnt decoder
    (`BlockDecoder`, trained by `lightning_modules.codecs.principal_decoder`) latents are the same, pictures better: it
    does not count as the codec's identity, so that models and encoded clips outlive a new decoder.

    Args:
        latent_channels: components that are kept.
        temporal_factor: f, frames per latent frame.
        spatial_factor: s, pixels per latent pixel along each side.
        decoder_width: channels of the learnt decoder; None decodes linearly.
        decoder_blocks: its residual blocks.

    Raises:
        InputError: if more components are asked for than a block has values, or the decoder's width does not divide
            into groups.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_channels: int = 32,
        temporal_factor: int = 8,
        spatial_factor: int = 4,
        decoder_width: int | None = None,
        decoder_blocks: int = 3,
    ) -> None:
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
        self.decoder_width, self.decoder_blocks = decoder_width, decoder_blocks
        self.decoder: BlockDecoder | None = None
        if decoder_width is not None:
            # what an experiment draws does not depend on whether a decoder is there
            with torch.random.fork_rng(devices=[]):
                self.decoder = BlockDecoder(latent_channels, values, decoder_width, decoder_blocks)

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
        return load_small(cls, folder, sha256, apart=_APART)

    @classmethod
    @names_files(folder=None)
    def with_new_decoder(
        cls, folder: str | Path, sha256: Sha256 = None, width: int = 128, num_blocks: int = 3
    ) -> PrincipalCodec:
        """The codec of a folder with a decoder that has learnt nothing yet and corrects nothing.

        Args:
            folder: as in `from_pretrained`; a decoder that is in it is passed over, whatever its state.
            sha256: as in `from_pretrained`.
            width: channels of the decoder.
            num_blocks: its residual blocks.

        Raises:
            InputError: as `from_pretrained`, but for the decoder.
        """

        def linear(**config: Any) -> PrincipalCodec:
            return cls(**{**config, "decoder_width": None})

        found = load_small(linear, folder, sha256)
        codec = cls(found.latent_channels, found.temporal_factor, found.spatial_factor, width, num_blocks)
        codec.load_state_dict(dict(found.named_buffers()), strict=False)
        return codec

    def save_pretrained(self, folder: Path) -> None:
        """Writes ``config.json``, ``model.safetensors`` and any decoder's ``decoder.safetensors`` into a folder."""
        config: dict[str, Any] = {
            "latent_channels": self.latent_channels,
            "temporal_factor": self.temporal_factor,
            "spatial_factor": self.spatial_factor,
        }
        if self.decoder is not None:
            config |= {"decoder_width": self.decoder_width, "decoder_blocks": self.decoder_blocks}
        write_small(self, config, folder, apart=_APART)

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
        """The kept components and what the decoder adds; the image is the mean of its block's frames."""
        with no_autocast(latents.device):
            latents = latents.float()
            blocks = latents.movedim(1, -1) / self.scale @ self.components + self.mean
            if self.decoder is not None:
                blocks = blocks + self.decoder(latents)
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


class BlockDecoder(nn.Module):
    """What linear decoding of latents gets wrong, by their neighbours in space and their past.

    The kept components leave the others open, but scenes do not: how a ball falls through a block of some frames
    follows from few numbers. And latents that were generated carry noise that no scene would show. The body of a causal
    VAE's decoder, at the latents' resolution; as its last layer begins with zeros, it begins as linear decoding.

    Args:
        latent_channels: components of a latent.
        values: numbers of a block.
        width: channels within.
        num_blocks: residual blocks.

    Raises:
        InputError: if ``width`` is no multiple of 8.
    """

    def __init__(self, latent_channels: int, values: int, width: int, num_blocks: int) -> None:
        super().__init__()
        if width < _GROUPS or width % _GROUPS:
            raise InputError(f"the width of the decoder is {width}; give a multiple of {_GROUPS}")
        self.conv_in = CausalConv3d(latent_channels, width)
        self.blocks = nn.ModuleList([CausalResnetBlock(width, width, _GROUPS) for _ in range(num_blocks)])
        self.norm_out = FrameGroupNorm(_GROUPS, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, values)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """``[B, C, L, h, w]`` to what is added to blocks ``[B, L, h, w, values]``."""
        stream = CausalStream(is_last=True)
        x = self.conv_in(latents, stream)
        for block in self.blocks:
            x = block(x, stream)
        correction: Tensor = self.out(F.silu(self.hidden(self.norm_out(x).movedim(1, -1))))
        return correction


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
