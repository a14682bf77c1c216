"""Harmony's dual tower as the benchmarks run it: real classes, random weights, size from the command line."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from benchmarks.measure import add_timing_arguments
from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.frame_band import TokenShape
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.model import WanTower
from components.contracts import TextFeatures
from components.media.clock import LatentClock

TEXT_DIM = 4096
VIDEO_CHANNELS, AUDIO_CHANNELS = 48, 20
PATCH = 2
CLOCK = LatentClock(24.0, 4, 31.25)  # Wan2.2 beside MMAudio at 16 kHz


@dataclass(frozen=True)
class HarmonySize:
    """Two towers of the same width and a clip.

    Attributes:
        layers: pairs of blocks.
        heads: attention heads of each tower.
        head_dim: channels per head, in towers and interaction.
        interaction_width: width of queries, keys and values of the interaction.
        clips: rows of a batch.
        latents: video latents in time.
        rows: rows of video tokens.
        columns: columns of video tokens.
        audio: audio tokens.
        reference: tokens of the reference sound.
        words: text tokens.
    """

    layers: int
    heads: int
    head_dim: int
    interaction_width: int
    clips: int
    latents: int
    rows: int
    columns: int
    audio: int
    reference: int
    words: int

    @property
    def dim(self) -> int:
        """Width of the towers."""
        return self.heads * self.head_dim

    @property
    def video(self) -> int:
        """Video tokens of a clip."""
        return self.latents * self.rows * self.columns

    @property
    def shape(self) -> TokenShape:
        """What the interaction's windows depend on."""
        return TokenShape((self.latents, self.rows, self.columns), self.audio)

    @property
    def interaction(self) -> InteractionConfig:
        """Default manner, this size."""
        return InteractionConfig(width=self.interaction_width, num_heads=self.interaction_width // self.head_dim)

    @property
    def tower(self) -> dict[str, Any]:
        """Settings that both towers share; feed-forward networks are as wide as TI2V-5B's for its width."""
        settings = {"num_layers": self.layers, "num_attention_heads": self.heads, "attention_head_dim": self.head_dim}
        return {**settings, "ffn_dim": self.dim * 14 // 3, "text_dim": TEXT_DIM, "text_len": self.words}

    def __str__(self) -> str:
        """For people."""
        return (
            f"{self.layers} layers of width {self.dim}, interaction {self.interaction_width}; {self.clips} clips of "
            f"{self.latents} x {self.rows} x {self.columns} = {self.video:,} video, {self.audio} audio and "
            f"{self.reference} reference tokens"
        )


_FULL = HarmonySize(2, 24, 128, 1024, 1, 31, 22, 40, 157, 157, 512)
SIZES = {
    "small": HarmonySize(2, 4, 64, 128, 1, 8, 8, 12, 40, 40, 32),
    "480p": replace(_FULL, rows=15, columns=26),
    "704p": _FULL,
}
"""``480p`` and ``704p`` are 121 frames of 480 x 832 and 704 x 1280 at full width, two of the thirty layers."""
FULL_DEPTH = 30


def add_size_arguments(parser: argparse.ArgumentParser, full_table: bool = False) -> None:
    """Options for the towers' and the clips' size, and of a second table that counts full sizes."""
    parser.add_argument("--size", choices=list(SIZES), default="small", help="what the next options change")
    group = parser.add_argument_group("changes to --size")
    for field in fields(HarmonySize):
        group.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=None, metavar="N")
    add_timing_arguments(parser, repeats=5)
    parser.add_argument("--device", default="cpu")
    if full_table:
        names = list(SIZES)
        parser.add_argument("--full", nargs="*", choices=names, default=["480p", "704p"], help="of the second table")
    parser.add_argument("--bfloat16", action="store_true", help="weights and activations in bfloat16")


def size_of(args: argparse.Namespace) -> HarmonySize:
    """The size that was asked for."""
    base = asdict(SIZES[args.size])
    return HarmonySize(**{name: base[name] if getattr(args, name) is None else getattr(args, name) for name in base})


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """The precision that was asked for."""
    return torch.bfloat16 if args.bfloat16 else torch.float32


def build_harmony(
    size: HarmonySize,
    coupled: bool,
    device: str,
    dtype: torch.dtype,
    trained: bool = False,
    driver_isolated: bool = False,
) -> HarmonyTransformer:
    """The dual tower; its towers are the same with and without interaction.

    Args:
        size: of the towers.
        coupled: with the interaction between the towers.
        device: where it is made.
        dtype: of the weights.
        trained: open the interaction's outputs, which start at zero.
        driver_isolated: a modality that drives receives nothing.
    """
    torch.manual_seed(0)
    with torch.device(device):
        towers = WanTower(**size.tower), AudioTower(channels=AUDIO_CHANNELS, transcript_dim=None, **size.tower)
        manner = replace(size.interaction, driver_isolated=driver_isolated)
        model = HarmonyTransformer(*towers, manner if coupled else None)
    if trained:
        for name, parameter in model.named_parameters():
            if ".interaction." in name and ".to_out." in name:
                nn.init.normal_(parameter, std=0.05)
    return model.to(dtype)


def random_inputs(size: HarmonySize, device: str, dtype: torch.dtype, seed: int = 1) -> dict[str, Any]:
    """Arguments of a forward pass, all but ``active``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        if device == "meta":
            return torch.empty(size.clips, *shape, dtype=dtype, device=device)
        return torch.randn(size.clips, *shape, generator=generator).to(device, dtype)

    def text() -> TextFeatures:
        mask = torch.ones(size.clips, size.words, dtype=torch.bool, device=device)
        return TextFeatures(normal(size.words, TEXT_DIM), mask)

    timesteps = torch.full((size.clips,), 500.0, device=device)
    return {
        "z_v": normal(VIDEO_CHANNELS, size.latents, PATCH * size.rows, PATCH * size.columns),
        "z_a": normal(AUDIO_CHANNELS, size.audio),
        "z_r": normal(AUDIO_CHANNELS, size.reference) if size.reference else None,
        "t_v": timesteps,
        "t_a": timesteps,
        "text_v": text(),
        "text_a": text(),
        "clock": CLOCK,
    }
