"""The causal 3-D video VAE of Pyramid Flow: encoder, decoder and the network that joins them.

Source: the Pyramid Flow specification, section 2. State-dict keys are those of the public checkpoint (folder
``causal_video_vae`` of both releases); ``config.json`` entries keep the names they have there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.codecs.video.causal_vae.blocks import (
    CausalConv3d,
    CausalStream,
    DownBlock,
    FrameGroupNorm,
    MidBlock,
    UpBlock,
)


class CausalEncoder(nn.Module):
    """Pixels to features: input convolution, down blocks, middle block, output convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: Sequence[int],
        spatial: Sequence[bool],
        temporal: Sequence[bool],
        num_groups: int,
    ) -> None:
        super().__init__()
        inputs = [widths[0], *widths[:-1]]
        self.conv_in = CausalConv3d(in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(i, o, n, num_groups, s, t)
            for i, o, n, s, t in zip(inputs, widths, layers, spatial, temporal, strict=True)
        )
        self.mid_block = MidBlock(widths[-1], num_groups)
        self.conv_norm_out = FrameGroupNorm(num_groups, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels)

    def forward(self, pixels: Tensor, stream: CausalStream) -> Tensor:
        """``[B, 3, T, H, W]`` to ``[B, out_channels, L, h, w]``."""
        x = self.conv_in(pixels, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        x = self.mid_block(x, stream)
        result: Tensor = self.conv_out(F.silu(self.conv_norm_out(x), inplace=True), stream)
        return result


class CausalDecoder(nn.Module):
    """Features to pixels: the encoder mirrored; ``widths`` run from fine to coarse, other lists from coarse to fine."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: Sequence[int],
        spatial: Sequence[bool],
        temporal: Sequence[bool],
        num_groups: int,
    ) -> None:
        super().__init__()
        # coarse to fine: the decoder begins where the encoder ends
        outputs = list(reversed(widths))
        inputs = [outputs[0], *outputs[:-1]]
        self.conv_in = CausalConv3d(in_channels, outputs[0])
        self.mid_block = MidBlock(outputs[0], num_groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(i, o, n, num_groups, s, t)
            for i, o, n, s, t in zip(inputs, outputs, layers, spatial, temporal, strict=True)
        )
        self.conv_norm_out = FrameGroupNorm(num_groups, outputs[-1])
        self.conv_out = CausalConv3d(outputs[-1], out_channels)

    def forward(self, features: Tensor, stream: CausalStream) -> Tensor:
        """``[B, C, L, h, w]`` to ``[B, 3, T, H, W]``."""
        x = self.mid_block(self.conv_in(features, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream)
        result: Tensor = self.conv_out(F.silu(self.conv_norm_out(x), inplace=True), stream)
        return result


class CausalVideoVAE(nn.Module):
    """The network: 8x in height, width and time with the default arguments (335.4 M parameters).

    A video of ``1 + temporal_factor * (L - 1)`` frames has L latent frames; latent 0 is the first image alone, and
    nothing depends on later frames, in either direction. Both directions take a video whole or chunk by chunk with one
    ``CausalStream`` per video; the results agree up to rounding. Latents here are the raw ones of the network: the
    codec normalises them.

    Args:
        encoder_in_channels: channels of a pixel.
        encoder_out_channels: latent channels.
        encoder_layers_per_block: residual units of each down block.
        encoder_block_out_channels: widths of the down blocks.
        encoder_spatial_down_sample: which down blocks halve height and width.
        encoder_temporal_down_sample: which down blocks halve time.
        encoder_norm_num_groups: groups of the encoder's normalisations.
        decoder_in_channels: latent channels (as ``encoder_out_channels``).
        decoder_out_channels: channels of a pixel.
        decoder_layers_per_block: residual units of each up block, coarsest first.
        decoder_block_out_channels: widths of the up blocks, finest first.
        decoder_spatial_up_sample: which up blocks double height and width, coarsest first.
        decoder_temporal_up_sample: which up blocks double time, coarsest first.
        decoder_norm_num_groups: groups of the decoder's normalisations.

    Attributes:
        config: the arguments, as ``config.json`` holds them.

    Raises:
        ValueError: if lists differ in length or encoder and decoder do not fit each other.
    """

    def __init__(
        self,
        encoder_in_channels: int = 3,
        encoder_out_channels: int = 16,
        encoder_layers_per_block: Sequence[int] = (2, 2, 2, 2),
        encoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        encoder_spatial_down_sample: Sequence[bool] = (True, True, True, False),
        encoder_temporal_down_sample: Sequence[bool] = (True, True, True, False),
        encoder_norm_num_groups: int = 32,
        decoder_in_channels: int = 16,
        decoder_out_channels: int = 3,
        decoder_layers_per_block: Sequence[int] = (3, 3, 3, 3),
        decoder_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        decoder_spatial_up_sample: Sequence[bool] = (True, True, True, False),
        decoder_temporal_up_sample: Sequence[bool] = (True, True, True, False),
        decoder_norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        down = (encoder_in_channels, encoder_out_channels, sum(encoder_spatial_down_sample))
        # latent channels as the decoder reads them must be those the encoder gives
        up = (decoder_out_channels, decoder_in_channels, sum(decoder_spatial_up_sample))
        halvings = sum(encoder_temporal_down_sample)
        if down != up or halvings != sum(decoder_temporal_up_sample):
            raise ValueError(
                "encoder and decoder do not mirror each other: pixel channels, latent channels and spatial halvings "
                f"are {down} against {up}, temporal halvings {halvings} against {sum(decoder_temporal_up_sample)}"
            )
        self.config: dict[str, int | list[int] | list[bool]] = {
            "encoder_in_channels": encoder_in_channels,
            "encoder_out_channels": encoder_out_channels,
            "encoder_layers_per_block": list(encoder_layers_per_block),
            "encoder_block_out_channels": list(encoder_block_out_channels),
            "encoder_spatial_down_sample": list(encoder_spatial_down_sample),
            "encoder_temporal_down_sample": list(encoder_temporal_down_sample),
            "encoder_norm_num_groups": encoder_norm_num_groups,
            "decoder_in_channels": decoder_in_channels,
            "decoder_out_channels": decoder_out_channels,
            "decoder_layers_per_block": list(decoder_layers_per_block),
            "decoder_block_out_channels": list(decoder_block_out_channels),
            "decoder_spatial_up_sample": list(decoder_spatial_up_sample),
            "decoder_temporal_up_sample": list(decoder_temporal_up_sample),
            "decoder_norm_num_groups": decoder_norm_num_groups,
        }
        self.pixel_channels = encoder_in_channels
        self.latent_channels = encoder_out_channels
        self.spatial_factor = 2 ** down[2]
        self.temporal_factor = 2**halvings
        moments = 2 * encoder_out_channels
        self.encoder = CausalEncoder(
            encoder_in_channels,
            moments,
            encoder_block_out_channels,
            encoder_layers_per_block,
            encoder_spatial_down_sample,
            encoder_temporal_down_sample,
            encoder_norm_num_groups,
        )
        self.decoder = CausalDecoder(
            decoder_in_channels,
            decoder_out_channels,
            decoder_block_out_channels,
            decoder_layers_per_block,
            decoder_spatial_up_sample,
            decoder_temporal_up_sample,
            decoder_norm_num_groups,
        )
        self.quant_conv = CausalConv3d(moments, moments, kernel_size=1)
        self.post_quant_conv = CausalConv3d(decoder_in_channels, decoder_in_channels, kernel_size=1)

    @property
    def dtype(self) -> torch.dtype:
        """The type the network computes in."""
        return self.quant_conv.conv.weight.dtype

    def encode(self, pixels: Tensor, stream: CausalStream | None = None) -> Tensor:
        """Pixels to the posterior's moments.

        Args:
            pixels: ``[B, 3, T, H, W]`` in [-1, 1]; T is ``1 + temporal_factor * n`` where the video starts and
                ``temporal_factor * n`` for a later chunk.
            stream: the state of a video encoded in chunks; None for a whole video.

        Returns:
            Mean and log-variance ``[B, 2C, L, h, w]`` (see `DiagonalGaussian.from_moments`).

        Raises:
            ValueError: if the chunk's frames do not fill whole latent frames.
        """
        stream = stream or CausalStream(is_last=True)
        # the first frame stands alone; ``starts_video`` is 1 at the start and 0 later
        if (pixels.shape[2] - stream.starts_video) % self.temporal_factor:
            first = "1 + " if stream.starts_video else ""
            raise ValueError(f"a chunk of {pixels.shape[2]} frames is not {first}a multiple of {self.temporal_factor}")
        moments = self.quant_conv(self.encoder(pixels.to(self.dtype), stream), stream)
        stream.starts_video = False
        result: Tensor = moments
        return result

    def decode(self, latents: Tensor, stream: CausalStream | None = None) -> Tensor:
        """Raw latents ``[B, C, L, h, w]`` to pixels ``[B, 3, T, H, W]`` (about [-1, 1], not clamped).

        T is ``1 + temporal_factor * (L - 1)`` where the video starts and ``temporal_factor * L`` for a later chunk
        of ``stream``.
        """
        stream = stream or CausalStream(is_last=True)
        pixels = self.decoder(self.post_quant_conv(latents.to(self.dtype), stream), stream)
        stream.starts_video = False
        result: Tensor = pixels
        return result

    def encode_windows(self, pixels: Tensor, window: int | None) -> Iterator[Tensor]:
        """Moments of a whole video, a chunk at a time: the first ``1 + window`` frames, then ``window`` each."""
        # a stream per call: several videos may be encoded at once
        stream = CausalStream()
        for chunk in _windows(pixels, window, stream):
            yield self.encode(chunk, stream)

    def decode_windows(self, latents: Tensor, window: int | None) -> Iterator[Tensor]:
        """Pixels of a whole video, a chunk at a time: the first ``1 + window`` latents, then ``window`` each."""
        stream = CausalStream()
        for chunk in _windows(latents, window, stream):
            yield self.decode(chunk, stream)


def _windows(clip: Tensor, window: int | None, stream: CausalStream) -> Iterator[Tensor]:
    """Cuts ``[B, C, T, H, W]`` along time (None: not at all) and tells ``stream`` before the last piece."""
    length = clip.shape[2]
    # the first chunk has one more: 1 + window, then window each
    ends = [*range(1 + window, length, window), length] if window else [length]
    start = 0
    for end in ends:
        # told before the chunk runs, so that its layers remember nothing
        stream.is_last = end == length
        yield clip[:, :, start:end]
        start = end
