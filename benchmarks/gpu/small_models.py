"""Small models of both systems and what they are run on, drawn on the CPU: the same numbers for every device.

Generators of a CPU and of a card give different numbers for one seed, so whatever is random is drawn on the CPU and
moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.pyramid_flow.checkpoint import VARIANTS, Variant
from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT
from components.backbones.wan.model import WanTower
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.contracts import AudioFeatures, TextFeatures
from components.media.clock import LatentClock
from components.objectives.cross_task import CrossTaskSynergy, TaskDraws
from components.objectives.pyramid_columns import AutoregressivePyramid, ColumnDraws
from components.samplers.sampling_noise import ClipNoise

T = TypeVar("T")
FPS, TEMPORAL_FACTOR = 24.0, 8  # Pyramid Flow's: a latent lasts a third of a second
TEXT_DIM, POOLED_DIM, AUDIO_DIM, TRANSCRIPT_DIM = 48, 32, 24, 40
CLIPS, LATENTS, SIDES = 4, 5, (16, 24)
CLOCK = LatentClock(24.0, 4, 31.25)  # Wan2.2 beside MMAudio at 16 kHz
VIDEO_CHANNELS, SOUND_CHANNELS = 8, 6
VIDEO_SHAPE, NUM_SOUND, NUM_REFERENCE = (VIDEO_CHANNELS, 6, 8, 12), 29, 9


def drawn(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers, float32, on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def open_up(module: nn.Module, seed: int | torch.Generator = 0) -> None:
    """Gives every parameter, also those that begin at zero, a value that matters and keeps the signal's size.

    Args:
        module: changed in place.
        seed: of numbers drawn on the CPU, or a generator on the parameters' device.
    """
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    for name, parameter in module.named_parameters():
        noise = torch.empty(parameter.shape, device=generator.device).normal_(generator=generator)
        if parameter.ndim == 1:  # norms near 1, biases near 0
            parameter.copy_(noise.mul_(0.2).add_(float(name.endswith("weight"))))
        else:
            parameter.copy_(noise.mul_(parameter.shape[1:].numel() ** -0.5))


def moved(given: T, device: str, dtype: torch.dtype = torch.float32) -> T:
    """Tensors, also inside lists, dictionaries and dataclasses, on ``device``; floating-point ones in ``dtype``."""
    found: Any = given
    if isinstance(given, Tensor):
        found = given.to(device, dtype) if given.is_floating_point() else given.to(device)
    elif isinstance(given, list | tuple):
        found = type(given)(moved(item, device, dtype) for item in given)
    elif isinstance(given, dict):
        found = {key: moved(item, device, dtype) for key, item in given.items()}
    elif is_dataclass(given) and not isinstance(given, type):
        items = {field.name: getattr(given, field.name) for field in fields(given)}
        found = replace(given, **{name: moved(item, device, dtype) for name, item in items.items()})
    return found  # type: ignore[no-any-return]


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 means float32: neither matrix products nor convolutions round their inputs to ten bits (TF32)."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class MovedNoise:
    """The noise of `ClipNoise`, drawn on the CPU and moved.

    Args:
        clips: one generator for each.
        device: where it is wanted.
        seed: of the first clip; the next ones count on.
    """

    def __init__(self, clips: int, device: str, seed: int = 7) -> None:
        self._noise = ClipNoise([torch.Generator().manual_seed(seed + clip) for clip in range(clips)])
        self._device = device

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Standard normal latents of the whole clip at full resolution."""
        return self._noise.initial(shape).to(self._device)

    def block(self, unit: int, stage: int, shape: Sequence[int], gamma: float) -> Tensor:
        """Block noise for the jump of ``unit`` into ``stage``."""
        return self._noise.block(unit, stage, shape, gamma).to(self._device)


class PyramidDrawnOnCPU(AutoregressivePyramid):
    """Draws for latents of any device from a generator of the CPU."""

    def draw(
        self,
        latents: Tensor,
        units_per_stage: Sequence[int],
        generator: torch.Generator | None,
        position: int | None = None,
    ) -> list[ColumnDraws]:
        """As the class it comes from, on the latents' device afterwards."""
        draws = super().draw(latents.cpu().float(), units_per_stage, generator, position)
        return moved(draws, str(latents.device), latents.dtype)


class TasksDrawnOnCPU(CrossTaskSynergy):
    """Draws for latents of any device from a generator of the CPU."""

    def draw(self, video: Tensor | None, audio: Tensor | None, generator: torch.Generator | None) -> TaskDraws:
        """As the class it comes from, on the latents' device afterwards."""
        like = video if video is not None else audio
        assert like is not None
        video, audio = (None if latents is None else latents.cpu().float() for latents in (video, audio))
        return moved(super().draw(video, audio, generator), str(like.device), like.dtype)


def small_vae() -> CausalVideoCodec:
    """The public make with narrow layers: 4 latent channels would not do, the backbones have 16."""
    widths = (16, 16, 32, 32)
    torch.manual_seed(1)
    return CausalVideoCodec(
        CausalVideoVAE(
            encoder_block_out_channels=widths,
            encoder_norm_num_groups=8,
            decoder_block_out_channels=widths,
            decoder_norm_num_groups=8,
        )
    )


def small_syncphony(variant: Variant, **settings: Any) -> SyncphonyDiT:
    """Four (miniFLUX) or three (SD3) blocks of width 128, half of them late, with audio layers that matter."""
    shared: dict[str, Any] = {
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": TEXT_DIM,
        "pooled_projection_dim": POOLED_DIM,
    }
    if variant == "miniflux":
        shared |= {"num_layers": 2, "num_single_layers": 2, "axes_dims_rope": (8, 12, 12)}
    else:
        shared |= {"num_layers": 3, "sample_size": 32, "pos_embed_max_size": 24}
    timeline = AudioTimeline(look_back_s=0.1, look_ahead_s=0.1, rope_time_scale=16.0)
    dit = SyncphonyDiT(VARIANTS[variant](**shared), 2 if variant == "miniflux" else 1, AUDIO_DIM, timeline, **settings)
    open_up(dit)
    return dit


def small_text(rows: int, dim: int, words: int = 7, seed: int = 11) -> TextFeatures:
    """Prompts of ``words`` tokens, every other one shorter, padded."""
    lengths = words - torch.arange(rows) % 2 * (words // 2)
    mask = torch.arange(words) < lengths[:, None]
    return TextFeatures(drawn(rows, words, dim, seed=seed), mask, drawn(rows, POOLED_DIM, seed=seed + 1))


def small_sound(rows: int, frames: int) -> AudioFeatures:
    """Tokens at 50 Hz over ``frames`` frames; the last clip's end is padding."""
    num = int(50 * frames / FPS) + 1
    mask = torch.ones(rows, num, dtype=torch.bool)
    mask[-1, num // 2 :] = False
    return AudioFeatures(drawn(rows, num, AUDIO_DIM, seed=21), 50.0, mask, 0.01)


@dataclass(frozen=True)
class SyncphonyInputs:
    """Clips of a training step.

    Attributes:
        latents: ``[B, C, L, h, w]``.
        text: of the prompts.
        negative: of the negative prompts.
        sound: audio tokens.
    """

    latents: Tensor
    text: TextFeatures
    negative: TextFeatures
    sound: AudioFeatures


def syncphony_inputs(clips: int = CLIPS) -> SyncphonyInputs:
    """Drawn on the CPU."""
    frames = 1 + TEMPORAL_FACTOR * (LATENTS - 1)
    text = [small_text(clips, TEXT_DIM, seed=seed) for seed in (31, 41)]
    return SyncphonyInputs(drawn(clips, 16, LATENTS, *SIDES, seed=3), text[0], text[1], small_sound(clips, frames))


def small_harmony(band: BandConfig | None = None, **settings: Any) -> HarmonyTransformer:
    """Two layers of width 128, coupled, everything that begins at zero opened."""
    tower: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 256}
    tower |= {"text_dim": TEXT_DIM, "text_len": 8, "freq_dim": 64}
    model = HarmonyTransformer(
        WanTower(in_channels=VIDEO_CHANNELS, out_channels=VIDEO_CHANNELS, **tower),
        AudioTower(channels=SOUND_CHANNELS, transcript_dim=TRANSCRIPT_DIM, **tower),
        InteractionConfig(width=128, num_heads=2, band=band or BandConfig()),
        **settings,
    )
    open_up(model)
    return model


def harmony_inputs(rows: int) -> dict[str, Any]:
    """Conditions of ``rows`` rows, without latents and timesteps."""
    return {
        "z_r": drawn(rows, SOUND_CHANNELS, NUM_REFERENCE, seed=51),
        "ref_len": NUM_REFERENCE - torch.arange(rows) % 3,
        "text_v": small_text(rows, TEXT_DIM, seed=61),
        "text_a": small_text(rows, TEXT_DIM, seed=71),
        "transcript": small_text(rows, TRANSCRIPT_DIM, seed=81),
    }
