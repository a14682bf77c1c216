"""The smallest models and inputs that run the real classes: width 32, five (miniFLUX) or three (SD3) blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.backbones.pyramid_flow.blocks import ColumnState
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.pyramid_flow.mmdit import PyramidMMDiT
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures
from components.objectives.pyramid_columns import AutoregressivePyramid, TrainingColumn

VARIANTS = ("miniflux", "mmdit")
NUM_BLOCKS = {"miniflux": 5, "mmdit": 3}
SPLITS = [(variant, first) for variant in VARIANTS for first in range(NUM_BLOCKS[variant] + 1)]
TEXT_DIM, POOLED_DIM, AUDIO_DIM = 12, 10, 6
FPS, TEMPORAL_FACTOR = 24.0, 8


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter, also those that start at zero, a value that matters."""
    g = generator(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        vector = float(name.endswith("weight")) + 0.2 * noise  # norms near 1, biases near 0
        p.copy_(vector if p.ndim == 1 else noise * p.shape[1:].numel() ** -0.5)


def tiny_backbone(
    variant: str, latent_channels: int = 4, text_dim: int = TEXT_DIM, pooled_dim: int = POOLED_DIM, seed: int = 0
) -> PyramidFlowTransformer:
    shared = {
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": text_dim,
        "pooled_projection_dim": pooled_dim,
    }
    backbone: PyramidFlowTransformer
    if variant == "miniflux":
        backbone = MiniFluxTransformer(
            in_channels=4 * latent_channels, num_layers=2, num_single_layers=3, axes_dims_rope=(4, 6, 6), **shared
        )
    else:
        backbone = PyramidMMDiT(
            sample_size=32, in_channels=latent_channels, num_layers=3, pos_embed_max_size=24, **shared
        )
    randomise(backbone, seed)
    return backbone


def tiny_dit(
    variant: str = "miniflux",
    first_late_block: int = 2,
    random_audio: bool = True,
    timeline: AudioTimeline | None = None,
    seed: int = 0,
    **settings: object,
) -> SyncphonyDiT:
    """Backbone with audio layers, at random or with their output still zero."""
    torch.manual_seed(seed)
    dit = SyncphonyDiT(tiny_backbone(variant, seed=seed), first_late_block, AUDIO_DIM, timeline, **settings)
    if random_audio and dit.audio_layers is not None and dit.audio_embedder is not None:
        randomise(dit.audio_layers, seed + 1)
        randomise(dit.audio_embedder, seed + 2)
    return dit


def text_features(batch: int, words: int = 3, seed: int = 0, padded: bool = True) -> TextFeatures:
    """Row b has ``words - b % 2`` real tokens, so that some are padding."""
    g = generator(100 + seed)
    lengths = torch.tensor([max(words - b % 2 * padded, 1) for b in range(batch)])
    return TextFeatures(
        tokens=torch.randn(batch, words, TEXT_DIM, generator=g),
        mask=torch.arange(words) < lengths[:, None],
        pooled=torch.randn(batch, POOLED_DIM, generator=g),
    )


def audio_features(
    batch: int, seconds: float, rate_hz: float = 50.0, first_center_s: float | None = None, seed: int = 0
) -> AudioFeatures:
    """Random tokens; by default token j is centred at ``(j + 0.5) / rate_hz``."""
    num = max(int(seconds * rate_hz), 1)
    tokens = torch.randn(batch, num, AUDIO_DIM, generator=generator(200 + seed))
    first = 0.5 / rate_hz if first_center_s is None else first_center_s
    return AudioFeatures(tokens, rate_hz, torch.ones(batch, num, dtype=torch.bool), first)


def latents(
    batch: int, num_latents: int = 5, channels: int = 4, size: tuple[int, int] = (8, 16), seed: int = 0
) -> Tensor:
    return torch.randn(batch, channels, num_latents, *size, generator=generator(300 + seed))


def training_columns(clips: Tensor, units: Sequence[int] = (4, 4, 3), seed: int = 0) -> list[TrainingColumn]:
    """Stages 0, 1, 1, 2 of four clips."""
    pyramid = AutoregressivePyramid()
    return pyramid.build(clips, units, pyramid.draw(clips, units, generator(seed)))


def model_columns(training: Sequence[TrainingColumn], text: TextFeatures) -> list[Column]:
    """The transformer's input for training columns."""
    return [Column(column.clips, column.timesteps, text.rows(column.rows)) for column in training]


def column_sounds(training: Sequence[TrainingColumn], dit: SyncphonyDiT, audio: AudioFeatures) -> list[AudioContext]:
    """What goes beside the columns into a transformer with audio layers."""
    sounds = []
    for column in training:
        context = dit.encode_audio(
            audio.rows(column.rows), column.first_frame + column.target.shape[2], FPS, TEMPORAL_FACTOR
        )
        assert context is not None
        sounds.append(context)
    return sounds


class BlockOutputs:
    """Records what every block of a backbone gives, before others change it; use as a context manager."""

    def __init__(self, backbone: PyramidFlowTransformer) -> None:
        self.backbone = backbone
        self.states: list[list[ColumnState]] = [[] for _ in backbone.blocks]

    def __enter__(self) -> list[list[ColumnState]]:
        self.hooks = [
            block.register_forward_hook(
                lambda _module, _inputs, states, i=i: self.states[i].extend(
                    state.with_tokens(state.tokens.clone()) for state in states
                )
            )
            for i, block in enumerate(self.backbone.blocks)
        ]
        return self.states

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
