"""The causal video VAE as a `VideoCodec`: windows, tiles, posterior and normalisation around the network.

Source: the Pyramid Flow specification, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.codecs.posterior import DiagonalGaussian, latents_of
from components.codecs.video.causal_vae.checkpoint import load_vae, stored_normalisation
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.causal_vae.normalisation import MINIFLUX_NORMALISATION, LatentNormalisation
from components.codecs.video.tiling import map_tiles
from components.contracts import LatentMoments, VideoCodec
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files, of_no_consequence


@of_no_consequence("encode_window", "decode_window", "clips_at_once")
class CausalVideoCodec(VideoCodec):
    """Frozen causal video VAE with normalised latents (8x in height, width and time, 16 channels in the public one).

    Latents and pixels come out in float32, whatever type the network computes in.

    Args:
        vae: the network; it is frozen and put into evaluation mode.
        normalisation: constants of the release the backbone belongs to (`MINIFLUX_NORMALISATION`, also the default,
            or `SD3_NORMALISATION`: first_shift 0.1490, first_std 1.8415, the rest equal).
        encode_window: frames per chunk when encoding (one more in the first), a multiple of the temporal factor; None
            takes the video whole. Memory grows with it; the result does not depend on it.
        decode_window: latent frames per chunk when decoding (one more in the first); None takes the video whole.
        tile_size: side in pixels of the tiles that larger frames are processed in, a multiple of 4 spatial factors
            (the reference uses 256); None never tiles. Saves memory and changes the result slightly.
        clips_at_once: clips that go through the network together; None for all of a batch. Memory grows with it.

    Raises:
        InputError: if a window or the tile size is not a positive multiple of what it must be.
    """

    def __init__(
        self,
        vae: CausalVideoVAE,
        normalisation: LatentNormalisation = MINIFLUX_NORMALISATION,
        encode_window: int | None = 16,
        decode_window: int | None = 2,
        tile_size: int | None = None,
        clips_at_once: int | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.temporal_factor = vae.temporal_factor
        self.spatial_factor = vae.spatial_factor
        self.latent_channels = vae.latent_channels
        self.normalisation = normalisation
        self.encode_window = _positive_multiple("encode_window", encode_window, vae.temporal_factor)
        self.decode_window = _positive_multiple("decode_window", decode_window, 1)
        # a quarter of a tile overlaps, and in latents too it must be a whole number
        self.tile_size = _positive_multiple("tile_size", tile_size, 4 * vae.spatial_factor)
        self.clips_at_once = _positive_multiple("clips_at_once", clips_at_once, 1)

    @classmethod
    @names_files(folder="subfolder")
    @of_no_consequence("encode_window", "decode_window", "clips_at_once")
    def from_pretrained(
        cls,
        folder: str | Path,
        normalisation: LatentNormalisation | None = None,
        encode_window: int | None = 16,
        decode_window: int | None = 2,
        tile_size: int | None = None,
        subfolder: str | None = None,
        clips_at_once: int | None = None,
        dtype: str | None = "float32",
        sha256: Sha256 = None,
    ) -> CausalVideoCodec:
        """The codec of a public ``causal_video_vae`` folder.

        In a YAML file: ``class_path: components.codecs.video.causal_vae.codec.CausalVideoCodec.from_pretrained``.

        Args:
            folder: see `load_vae`: a folder, or a hub repository such as ``hf://rain1011/pyramid-flow-miniflux``.
            normalisation: see the class; None takes what the folder holds (one of your own training does), else the
                miniFLUX release's.
            encode_window: see the class.
            decode_window: see the class.
            tile_size: see the class.
            subfolder: folder within it, e.g. ``causal_video_vae``.
            clips_at_once: see the class.
            dtype: what the network computes in: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's.
            sha256: digests of files in the folder by their names (see `components.weights.digests`).

        Raises:
            InputError: if the folder, its files or an argument cannot be used.
        """
        vae = load_vae(folder, subfolder, dtype, sha256)
        normalisation = normalisation or stored_normalisation(folder, subfolder) or MINIFLUX_NORMALISATION
        codec = cls(vae, normalisation, encode_window, decode_window, tile_size, clips_at_once)
        inherit_identity(codec, vae)
        return codec

    def encode(self, video: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Video to normalised latents.

        Args:
            video: ``[B, T, 3, H, W]`` in [-1, 1]; T is ``1 + temporal_factor * n``, H and W multiples of
                ``spatial_factor``.
            generators: one for each clip, to draw from its posterior; None takes the posterior's mean.

        Returns:
            float32 ``[B, C, L, h, w]``.

        Raises:
            InputError: if the video's shape or type does not suit.
        """
        return self.normalisation.normalise(latents_of(self.posterior(video), generators))

    def moments(self, video: Tensor) -> LatentMoments:
        """Normalised mean and deviation of the posterior; see `encode`."""
        posterior = self.posterior(video)
        return LatentMoments(self.normalisation.normalise(posterior.mean), self.normalisation.scale(posterior.std))

    def posterior(self, video: Tensor) -> DiagonalGaussian:
        """Posterior over the raw (not normalised) latents of ``video`` ``[B, T, 3, H, W]``, in float32.

        Raises:
            InputError: if the video's shape or type does not suit.
        """
        self._check_video(video)
        batch, frames, _, height, width = video.shape
        shape = (
            batch,
            2 * self.latent_channels,
            self.num_latents(frames),
            height // self.spatial_factor,
            width // self.spatial_factor,
        )
        # float32 results, filled piece by piece: the network's own dtype stays inside it
        moments = video.new_empty(shape, dtype=torch.float32)
        tile = self._tile_for(height, width)
        with no_autocast(video.device):
            # views: what is written into ``place`` lands in ``moments``
            for pixels, place in self._parts(video.transpose(1, 2), moments):
                if tile is None:
                    _fill(place, self.vae.encode_windows(pixels, self.encode_window))
                else:
                    map_tiles(self._encode_tile, pixels, place, tile, tile // self.spatial_factor)
        return DiagonalGaussian.from_moments(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, L, h, w]`` (from the video's start on) to video ``[B, T, 3, H, W]`` in [-1, 1].

        Raises:
            InputError: if the latents are not of this codec's shape.
        """
        if latents.dim() != 5 or latents.shape[1] != self.latent_channels or latents.shape[2] < 1:
            raise InputError(
                f"latents are of shape {list(latents.shape)}, but the causal video VAE decodes "
                f"[clips, {self.latent_channels}, latent frames, height, width]; use the codec they were made with"
            )
        batch, _, length, height, width = latents.shape
        height, width = height * self.spatial_factor, width * self.spatial_factor
        shape = (batch, self.num_frames(length), self.vae.pixel_channels, height, width)
        video = latents.new_empty(shape, dtype=torch.float32)
        tile = self._tile_for(height, width)
        with no_autocast(latents.device):
            for raw, place in self._parts(self.normalisation.denormalise(latents), video.transpose(1, 2)):
                if tile is None:
                    _fill(place, self.vae.decode_windows(raw, self.decode_window))
                else:
                    map_tiles(self._decode_tile, raw, place, tile // self.spatial_factor, tile)
        return video.clamp_(-1.0, 1.0)

    def uniform_scale(self, latents: Tensor) -> Tensor:
        """Latents ``[B, C, L, h, w]`` with latent 0 in the normalisation of the later frames (a new tensor)."""
        return self.normalisation.uniform_scale(latents)

    def _parts(self, given: Tensor, made: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of as many clips as go through the network at once, and of the places of their results."""
        size = self.clips_at_once or len(given)
        return zip(given.split(size), made.split(size), strict=True)

    def _encode_tile(self, pixels: Tensor) -> Tensor:
        return torch.cat([chunk.float() for chunk in self.vae.encode_windows(pixels, self.encode_window)], dim=2)

    def _decode_tile(self, latents: Tensor) -> Tensor:
        return torch.cat([chunk.float() for chunk in self.vae.decode_windows(latents, self.decode_window)], dim=2)

    def _tile_for(self, height: int, width: int) -> int | None:
        """The tile size if frames of ``height`` x ``width`` pixels exceed one tile, else None."""
        return self.tile_size if self.tile_size is not None and max(height, width) > self.tile_size else None

    def _check_video(self, video: Tensor) -> None:
        if video.dim() != 5 or video.shape[2] != self.vae.pixel_channels or not video.is_floating_point():
            raise InputError(
                f"video is {video.dtype} of shape {list(video.shape)}, but the causal video VAE encodes floating-point "
                f"[clips, frames, {self.vae.pixel_channels}, height, width] in [-1, 1]; convert it first"
            )
        self.num_latents(video.shape[1])
        height, width = video.shape[-2:]
        factor = self.spatial_factor
        if height % factor or width % factor or not height or not width:
            fix = " x ".join(str(max(round(side / factor), 1) * factor) for side in (height, width))
            raise InputError(
                f"frames are {height} x {width} pixels (height x width), but the causal video VAE needs multiples of "
                f"{factor}; resize them, for example to {fix}"
            )


def _fill(canvas: Tensor, chunks: Iterator[Tensor]) -> None:
    """Writes consecutive chunks ``[B, C, t, H, W]`` into ``canvas`` ``[B, C, T, H, W]``."""
    start = 0
    for chunk in chunks:
        end = start + chunk.shape[2]
        canvas[:, :, start:end] = chunk
        start = end


def _positive_multiple(name: str, value: int | None, unit: int) -> int | None:
    if value is not None and (value < 1 or value % unit):
        raise InputError(f"{name} is {value}, but it must be a positive multiple of {unit}, or null; correct it")
    return value
