"""The video VAE of Wan 2.2 as a `VideoCodec`: 4x in time, 16x in height and width, 48 channels in the public one.

Wan et al., "Wan: Open and Advanced Large-Scale Video Generative Models" (2025), section 4.1; the network is diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.codecs.posterior import DiagonalGaussian, latents_of
from components.codecs.video.tiling import map_tiles
from components.contracts import LatentMoments, VideoCodec
from components.errors import InputError
from components.weights.diffusers_folder import load_diffusers
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files, of_no_consequence
from components.weights.pretrained import dtype_named

PUBLIC_ARCHITECTURE: dict[str, object] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,  # 3 colours x 2 x 2 pixels
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
"""Shapes of Wan2.2-TI2V-5B's VAE; its 48 means and deviations are read from the folder's config."""


@names_files(folder="subfolder")
@of_no_consequence("encode_window", "slicing")
class WanVideoCodec(VideoCodec):
    """Frozen ``AutoencoderKLWan`` with latents normalised per channel by the means and deviations of its config.

    The network is causal and runs chunk by chunk. What it remembers between chunks lives in the call and not in the
    module, so that one codec may serve several videos at a time.

    Args:
        folder: release folder of Wan2.2-TI2V-5B in diffusers layout, or hub repository (``hf://owner/name``).
        subfolder: where the VAE lies in it; None if ``folder`` is the VAE's own.
        dtype: what the network computes in; latents and pixels come out in float32.
        encode_window: frames per chunk (the first frame is one of its own), a multiple of the temporal factor. Memory
            grows with it; the result does not depend on it.
        tile_size: side in pixels of the tiles that larger frames are processed in, a multiple of 4 spatial factors
            (diffusers encodes in tiles of 512 and decodes in tiles of 256); None never tiles. Saves memory and changes
            the result slightly.
        slicing: one clip of the batch at a time, which saves memory.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder or an argument cannot be used.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        folder: str | Path,
        subfolder: str | None = "vae",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        encode_window: int = 4,
        tile_size: int | None = None,
        slicing: bool = False,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        vae = load_diffusers(AutoencoderKLWan, folder, subfolder, PUBLIC_ARCHITECTURE, dtype_named(dtype), sha256)
        self.vae = vae.requires_grad_(False).eval()
        inherit_identity(self, self.vae)
        config = self.vae.config
        self.temporal_factor = config.scale_factor_temporal
        self.spatial_factor = config.scale_factor_spatial
        self.latent_channels = config.z_dim
        self.register_buffer("mean", torch.tensor(config.latents_mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.latents_std).view(-1, 1, 1, 1), persistent=False)
        if len(self.mean) != self.latent_channels or len(self.std) != self.latent_channels:
            raise InputError(
                f"the config in '{folder}' has {len(self.mean)} latents_mean and {len(self.std)} latents_std for "
                f"{self.latent_channels} channels; download it anew"
            )
        if encode_window < 1 or encode_window % self.temporal_factor:
            raise InputError(f"encode_window is {encode_window}, but must be a multiple of {self.temporal_factor}")
        if tile_size is not None and (tile_size < 1 or tile_size % (4 * self.spatial_factor)):
            raise InputError(
                f"tile_size is {tile_size}, but must be a multiple of {4 * self.spatial_factor}, or null not to tile"
            )
        self.encode_window = encode_window
        self.tile_size = tile_size
        self.slicing = slicing

    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Video to normalised latents.

        Args:
            video: ``[B, T, 3, H, W]`` in [-1, 1]; T is ``1 + 4 n``, H and W multiples of 16.
            generators: one for each clip, to draw from its posterior; None takes the posterior's mean, as Wan does.

        Returns:
            float32 ``[B, C, L, h, w]``.

        Raises:
            InputError: if the video's shape does not suit.
        """
        return (latents_of(self.posterior(video), generators) - self.mean) / self.std

    def moments(self, video: Tensor) -> LatentMoments:
        """Normalised mean and deviation of the posterior; see `encode`."""
        posterior = self.posterior(video)
        return LatentMoments((posterior.mean - self.mean) / self.std, posterior.std / self.std)

    def posterior(self, video: Tensor) -> DiagonalGaussian:
        """Posterior over the raw (not normalised) latents of ``video`` ``[B, T, 3, H, W]``, in float32.

        Raises:
            InputError: if the video's shape does not suit.
        """
        batch, frames, _, height, width = video.shape
        factor = self.spatial_factor
        if height % factor or width % factor:
            raise InputError(
                f"frames of {height} x {width} pixels do not fit the Wan VAE: both must be multiples of {factor}"
            )
        shape = (batch, 2 * self.latent_channels, self.num_latents(frames), height // factor, width // factor)
        moments = video.new_empty(shape, dtype=torch.float32)
        tile = self._tile_for(height, width)
        for clips in self._slices(batch):
            # a view of the clips, [B, 3, T, H, W]
            pixels = video[clips].transpose(1, 2)
            if tile is None:
                moments[clips] = self._encode(pixels)
            else:
                map_tiles(self._encode, pixels, moments[clips], tile, tile // factor)
        return DiagonalGaussian.from_moments(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, L, h, w]`` (from the video's start on) to video ``[B, T, 3, H, W]`` in [-1, 1].

        Raises:
            InputError: if the latents are not of this codec's shape.
        """
        if latents.dim() != 5 or latents.shape[1] != self.latent_channels:
            raise InputError(
                f"latents are of shape {list(latents.shape)}, but the Wan VAE decodes [clips, {self.latent_channels}, "
                "latent frames, height, width]; use the codec they were made with"
            )
        batch, _, length, height, width = latents.shape
        factor = self.spatial_factor
        video = latents.new_empty(
            (batch, self.num_frames(length), 3, height * factor, width * factor), dtype=torch.float32
        )
        raw = latents.float() * self.std + self.mean
        tile = self._tile_for(height * factor, width * factor)
        for clips in self._slices(batch):
            pixels = video[clips].transpose(1, 2)
            if tile is None:
                self._decode_into(pixels, raw[clips])
            else:
                map_tiles(self._decode, raw[clips], pixels, tile // factor, tile)
        return video.clamp_(-1.0, 1.0)

    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, T, H, W]`` to the posterior's moments ``[B, 2 C, L, h, w]`` in float32."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify

        vae, window = self.vae, self.encode_window
        # one place per causal convolution, as diffusers' own encode lays it out
        memory: list[Tensor | str | None] = [None] * _count(vae.encoder, WanCausalConv3d)
        with no_autocast(pixels.device):
            # 2x2 pixels to channels, before the network
            pixels = patchify(pixels.to(vae.dtype), vae.config.patch_size or 1)
            # the first frame alone, as Wan's first latent holds one frame and the others four
            chunks = [pixels[:, :, :1], *_windows(pixels[:, :, 1:], window)]
            # feat_idx counts the convolutions of one pass: it begins anew with every chunk
            hidden = [vae.encoder(chunk, feat_cache=memory, feat_idx=[0]) for chunk in chunks]
            result: Tensor = vae.quant_conv(torch.cat(hidden, dim=2)).float()
            return result

    def _decode_into(self, pixels: Tensor, latents: Tensor) -> None:
        """Raw latents ``[B, C, L, h, w]`` to ``pixels`` ``[B, 3, T, H, W]``, one latent frame at a time."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify

        vae = self.vae
        memory: list[Tensor | str | None] = [None] * _count(vae.decoder, WanCausalConv3d)
        start = 0
        with no_autocast(latents.device):
            # one tap, no memory: all latents at once
            hidden = vae.post_quant_conv(latents.to(vae.dtype))
            for latent in range(hidden.shape[2]):
                frame = hidden[:, :, latent : latent + 1]
                # first_chunk: the first latent comes out as one frame instead of four
                chunk = vae.decoder(frame, feat_cache=memory, feat_idx=[0], first_chunk=latent == 0)
                chunk = unpatchify(chunk, vae.config.patch_size or 1)
                pixels[:, :, start : start + chunk.shape[2]] = chunk
                start += chunk.shape[2]

    def _decode(self, latents: Tensor) -> Tensor:
        """`_decode_into` a new tensor."""
        batch, _, length, height, width = latents.shape
        sides = (height * self.spatial_factor, width * self.spatial_factor)
        pixels = latents.new_empty((batch, 3, self.num_frames(length), *sides))
        self._decode_into(pixels, latents)
        return pixels

    def _tile_for(self, height: int, width: int) -> int | None:
        """The tile size if frames of ``height`` x ``width`` pixels exceed one tile, else None."""
        return self.tile_size if self.tile_size is not None and max(height, width) > self.tile_size else None

    def _slices(self, batch: int) -> list[slice]:
        return [slice(b, b + 1) for b in range(batch)] if self.slicing else [slice(None)]


def _windows(frames: Tensor, window: int) -> Iterator[Tensor]:
    """Consecutive chunks of ``frames`` ``[B, C, T, H, W]``; none if there are no frames."""
    for start in range(0, frames.shape[2], window):
        yield frames[:, :, start : start + window]


def _count(network: torch.nn.Module, layer: type[torch.nn.Module]) -> int:
    return sum(isinstance(module, layer) for module in network.modules())
