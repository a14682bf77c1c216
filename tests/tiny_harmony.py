"""The smallest dual tower that runs the real classes: three layers, width 48 (video) and 24 (audio)."""

from typing import Any

import torch
from torch import Tensor

from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.model import WanTower
from components.contracts import TextFeatures
from components.media.clock import LatentClock
from tests.tiny_syncphony import generator, randomise

TEXT_DIM, TRANSCRIPT_DIM, CHANNELS, AUDIO_CHANNELS = 16, 10, 8, 6
NUM_VIDEO, HEIGHT, WIDTH, NUM_AUDIO, NUM_REFERENCE = 4, 4, 6, 17, 5
CLOCK = LatentClock(24.0, 4, 31.25)  # Wan2.2 beside MMAudio at 16 kHz


def video_tower(seed: int = 0, **changes: Any) -> WanTower:
    arguments = {
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "ffn_dim": 96,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "text_len": 8,
    }
    torch.manual_seed(seed)
    return WanTower(**{**arguments, **changes})


def audio_tower(seed: int = 1, **changes: Any) -> AudioTower:
    arguments = {
        "channels": AUDIO_CHANNELS,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "ffn_dim": 48,
        "text_dim": TEXT_DIM,
        "transcript_dim": TRANSCRIPT_DIM,
        "freq_dim": 32,
        "text_len": 8,
    }
    torch.manual_seed(seed)
    return AudioTower(**{**arguments, **changes})


def tiny_interaction(**changes: Any) -> InteractionConfig:
    return InteractionConfig(**{"width": 24, "num_heads": 1, **changes})


def tiny_harmony(
    interaction: InteractionConfig | None = None, trained: bool = False, stem: str = "linear", **changes: Any
) -> HarmonyTransformer:
    """A dual tower; ``trained`` gives the parameters that start at zero values that matter."""
    model = HarmonyTransformer(video_tower(), audio_tower(stem=stem), interaction or tiny_interaction(), **changes)
    if trained:
        randomise(model, seed=5)
    return model


def text(rows: int, dim: int = TEXT_DIM, seed: int = 2, tokens: int = 6) -> TextFeatures:
    """Prompts of 3, 4, 5 ... tokens, padded."""
    lengths = 3 + torch.arange(rows) % (tokens - 2)
    values = torch.randn(rows, tokens, dim, generator=generator(seed))
    return TextFeatures(values, torch.arange(tokens)[None] < lengths[:, None])


def inputs(rows: int = 2, reference: bool = True, transcript: bool = True) -> dict[str, Any]:
    """Keyword arguments of a forward pass."""
    g = generator(9)
    given: dict[str, Any] = {
        "z_v": torch.randn(rows, CHANNELS, NUM_VIDEO, HEIGHT, WIDTH, generator=g),
        "z_a": torch.randn(rows, AUDIO_CHANNELS, NUM_AUDIO, generator=g),
        "t_v": torch.linspace(900, 300, rows),
        "t_a": torch.linspace(200, 800, rows),
        "text_v": text(rows),
        "text_a": text(rows, seed=3),
        "clock": CLOCK,
    }
    if reference:
        given["z_r"] = torch.randn(rows, AUDIO_CHANNELS, NUM_REFERENCE, generator=g)
        given["ref_len"] = NUM_REFERENCE - torch.arange(rows) % 3
    if transcript:
        given["transcript"] = text(rows, TRANSCRIPT_DIM, seed=4)
    return given


def rows_of(given: dict[str, Any], index: list[int]) -> dict[str, Any]:
    """The rows ``index`` of all arguments."""

    def pick(value: Any) -> Any:
        if isinstance(value, TextFeatures):
            return TextFeatures(value.tokens[index], value.mask[index])
        return value[index] if isinstance(value, Tensor) else value

    return {key: pick(value) for key, value in given.items()}
