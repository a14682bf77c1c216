"""The Syncphony transformer that the model benchmarks run: real classes, size from the command line."""

from __future__ import annotations

import argparse

import torch
from torch import nn

from benchmarks.measure import add_timing_arguments
from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures

TEXT_DIM = AUDIO_DIM = 64
FPS, TEMPORAL_FACTOR = 24.0, 8  # Pyramid Flow's: a latent frame lasts a third of a second


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Options for the transformer's and the clips' size."""
    parser.add_argument("--heads", type=int, default=6, help="attention heads of 32 channels")
    parser.add_argument("--joint-blocks", type=int, default=4)
    parser.add_argument("--single-blocks", type=int, default=8)
    parser.add_argument("--first-late-block", type=int, default=None, help="default: half of the blocks are late")
    parser.add_argument("--clips", type=int, default=4, help="clips per batch")
    parser.add_argument("--latents", type=int, default=5, help="latent frames per clip")
    parser.add_argument("--size", type=int, default=16, help="rows and columns of the latents")
    parser.add_argument("--channels", type=int, default=16, help="latent channels")
    add_timing_arguments(parser, repeats=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16 (autocast)")


def first_late_block(args: argparse.Namespace) -> int:
    """Half of the blocks by default."""
    half = (args.joint_blocks + args.single_blocks) // 2
    return half if args.first_late_block is None else int(args.first_late_block)


def build_dit(args: argparse.Namespace, all_train: bool = False) -> SyncphonyDiT:
    """The transformer with random weights; with ``all_train`` nothing of it is frozen."""
    torch.manual_seed(0)
    backbone = MiniFluxTransformer(
        in_channels=4 * args.channels,
        num_layers=args.joint_blocks,
        num_single_layers=args.single_blocks,
        attention_head_dim=32,
        num_attention_heads=args.heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        axes_dims_rope=(8, 12, 12),
    )
    for parameter in backbone.parameters():  # gates and the last projection start at zero: nothing would flow
        nn.init.normal_(parameter, std=0.05)
    dit = SyncphonyDiT(backbone, first_late_block(args), AUDIO_DIM, train_embedders=all_train, train_head=all_train)
    if all_train:
        backbone.requires_grad_(True)
    return dit.to(args.device)


def describe_size(args: argparse.Namespace) -> str:
    """One line about model and clips."""
    blocks = args.joint_blocks + args.single_blocks
    return (
        f"miniFLUX, width {32 * args.heads}, {blocks} blocks, blocks {first_late_block(args)}..{blocks - 1} late; "
        f"{args.clips} clips of {args.latents} x {args.size} x {args.size} latents"
    )


def random_text(rows: int, device: str, words: int = 8) -> TextFeatures:
    """Text tokens without padding."""
    tokens = torch.randn(rows, words, TEXT_DIM, device=device)
    return TextFeatures(tokens, torch.ones(rows, words, dtype=torch.bool, device=device), tokens.mean(dim=1))


def random_audio(rows: int, latents: int, device: str, dim: int = AUDIO_DIM) -> AudioFeatures:
    """50 Hz tokens over the whole clip."""
    num = int(50 * latents * TEMPORAL_FACTOR / FPS) + 1
    tokens = torch.randn(rows, num, dim, device=device)
    return AudioFeatures(tokens, 50.0, torch.ones(rows, num, dtype=torch.bool, device=device), 0.01)
