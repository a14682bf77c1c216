"""What enters Harmony's transformer in a training step, as shapes on the meta device, and what the step costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.backbones.harmony.model import HarmonyTransformer
from components.contracts import AudioCodec, Modality, TextFeatures, VideoCodec
from components.counting.flops import StepCost, activations_kept, backward, flops_of
from components.counting.step_shape import StepShape
from components.media.clock import LatentClock

_LATENTS = {"video": "z_v", "audio": "z_a", "reference": "z_r"}


@dataclass(frozen=True)
class HarmonyShapes:
    """Training batches without values.

    Attributes:
        transformer: on the meta device.
        audio_codec: asked for the shape of its latents alone.
        video_codec: likewise; None where no video takes part.
        modalities: those that are learnt.
        rows_per_clip: tasks that every clip runs through.
        temporal_factor: frames per video latent.
        text_dim: width of the text tokens.
        transcript_dim: width of the transcript's tokens; None without.
    """

    transformer: HarmonyTransformer
    audio_codec: AudioCodec
    video_codec: VideoCodec | None
    modalities: Sequence[Modality]
    rows_per_clip: int
    temporal_factor: int
    text_dim: int
    transcript_dim: int | None

    def arguments(self, shape: StepShape) -> dict[str, Any]:
        """The transformer's arguments: one row per clip, or one per clip and task."""
        rows, codec = shape.clips * self.rows_per_clip, self.audio_codec
        prompts = self._text(rows, shape.text_tokens, self.text_dim)
        words = self.transcript_dim
        timesteps = torch.ones(rows, device="meta")
        given: dict[str, Any] = {
            "z_v": None,
            "z_a": None,
            "z_r": None,
            "ref_len": torch.ones(rows, dtype=torch.long, device="meta"),
            "transcript": None if words is None else self._text(rows, shape.transcript_tokens, words),
            "clock": LatentClock(shape.fps, self.temporal_factor, codec.latent_rate_hz),
            "active": self.modalities,
        }
        if "audio" in self.modalities:
            num_latents = codec.num_latents_for(shape.duration_s)
            given |= {"z_a": _empty(rows, codec.latent_channels, num_latents), "t_a": timesteps, "text_a": prompts}
            if shape.reference_samples is not None:
                slot = math.ceil(shape.reference_samples / codec.latent_hop)
                given["z_r"] = _empty(rows, codec.latent_channels, slot)
        if self.video_codec is not None and "video" in self.modalities:
            side = self.video_codec.spatial_factor
            grid = (self.video_codec.num_latents(shape.num_frames), shape.height // side, shape.width // side)
            given |= {"z_v": _empty(rows, self.video_codec.latent_channels, *grid), "t_v": timesteps, "text_v": prompts}
            given["first_frame"] = torch.ones(rows, dtype=torch.bool, device="meta")
        return given

    def tokens(self, given: dict[str, Any]) -> dict[str, int]:
        """Tokens of a row by what they are of, those of nothing left out."""
        found = {name: 0 if given[key] is None else given[key][0, 0].numel() for name, key in _LATENTS.items()}
        if self.transformer.video is not None:
            found["video"] //= math.prod(self.transformer.video.patch_size)
        return {name: number for name, number in found.items() if number}

    def cost(self, shape: StepShape) -> StepCost:
        """FLOPs and tokens."""
        given = self.arguments(shape)
        with torch.enable_grad(), activations_kept(self.transformer):
            flops = flops_of(lambda: backward(self.transformer(**given)))
        return StepCost(flops, shape.clips * self.rows_per_clip * sum(self.tokens(given).values()))

    def _text(self, rows: int, tokens: int, dim: int) -> TextFeatures:
        return TextFeatures(_empty(rows, tokens, dim), torch.ones(rows, tokens, dtype=torch.bool, device="meta"))


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")
