"""What a training step of Syncphony begins with, encoded now or beforehand: prompts and clean latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from components.contracts import ClipBatch, LatentMoments, TextEncoder, TextFeatures, VideoCodec
from components.encoders.text.rows import emptied_rows


def training_prompts(encoder: TextEncoder, batch: ClipBatch, dropped: Tensor) -> TextFeatures:
    """Encoded captions, the empty prompt in place of those that are ``dropped`` (bool ``[B]``)."""
    if batch.text_features is not None and batch.prepared is not None:
        return emptied_rows(batch.text_features, batch.prepared.null_text, dropped)
    prompts = ["" if drop else caption for drop, caption in zip(dropped.tolist(), batch.captions, strict=True)]
    features: TextFeatures = encoder(prompts)
    return features


def prepared_latents(batch: ClipBatch, seeds: Sequence[int] | None) -> Tensor | None:
    """Latents ``[B, C, L, h, w]`` that were prepared; None where there are none.

    Args:
        batch: the clips.
        seeds: of the draws from the posterior, one for each clip; None takes its mean.
    """
    if batch.video_latents is None:
        return None
    std = None if batch.prepared is None else batch.prepared.video_std
    return LatentMoments(batch.video_latents, std).draw(seeds)


def encoded_prefixes(
    codec: VideoCodec,
    pixels: Callable[[Tensor], Tensor],
    video: Tensor,
    num_latents: int,
    prefixes: Iterable[tuple[slice, int]],
    seeds: Sequence[int] | None,
) -> Tensor:
    """Latents ``[B, C, L, h, w]`` as far as the clip's column reads them, which is half of the frames on average.

    Zeros stand behind. Exact, because codecs are causal: no latent depends on later frames.

    Args:
        codec: pixels to latents.
        pixels: uint8 frames to what the codec takes.
        video: uint8 ``[B, T, 3, H, W]``.
        num_latents: L.
        prefixes: of every column, its clips and how many of their latents it reads (`AutoregressivePyramid.prefixes`).
        seeds: of the draws from the posterior, one for each clip; None takes its mean.
    """
    by_length: dict[int, list[slice]] = {}
    for of_column, length in prefixes:
        by_length.setdefault(length, []).append(of_column)
    latents: Tensor | None = None
    for length, columns in by_length.items():
        # by slices: an index would be copied to the device, and the host wait for that
        frames = [video[clips, : codec.num_frames(length)] for clips in columns]
        moments = codec.moments(pixels(frames[0] if len(frames) == 1 else torch.cat(frames)))
        rows = [row for clips in columns for row in range(len(video))[clips]]
        encoded = moments.draw(None if seeds is None else [seeds[row] for row in rows])
        if latents is None:
            latents = encoded.new_zeros(len(video), encoded.shape[1], num_latents, *encoded.shape[3:])
        for clips, of_column in zip(columns, encoded.split([len(part) for part in frames]), strict=True):
            latents[clips, :, :length] = of_column
    assert latents is not None  # every clip has its column
    return latents
