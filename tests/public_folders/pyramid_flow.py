"""Whole releases of Pyramid Flow, tiny: every folder and file of the public repositories with networks a test can run.

What experiments fix is as in the releases: 24 blocks, heads of 64 channels, 16 latent channels, three pyramid stages.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.pyramid_flow.mmdit import PyramidMMDiT
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.codecs.video.causal_vae.checkpoint import vae_from_config
from tests.public_folders.text import write_miniflux_text, write_sd3_text
from tests.tiny_syncphony import randomise

JOINT_DIM, POOLED_DIM = 32, 16
VAE_CONFIG = {
    "_class_name": "CausalVideoVAE",
    "encoder_in_channels": 3,
    "encoder_out_channels": 16,
    "encoder_block_out_channels": [4, 4, 8, 8],
    "encoder_layers_per_block": [1, 1, 1, 1],
    "encoder_norm_num_groups": 2,
    "decoder_in_channels": 16,
    "decoder_out_channels": 3,
    "decoder_block_out_channels": [4, 4, 8, 8],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "decoder_norm_num_groups": 2,
}


def write_miniflux_release(folder: Path, seed: int = 0) -> None:
    """``pyramid-flow-miniflux``: transformer in safetensors, VAE as ``.bin``, CLIP-L, T5 and their tokenizers."""
    write_miniflux_text(folder, seed, JOINT_DIM, POOLED_DIM)
    backbone = MiniFluxTransformer(
        in_channels=64,
        num_layers=8,
        num_single_layers=16,
        attention_head_dim=64,
        num_attention_heads=1,
        joint_attention_dim=JOINT_DIM,
        pooled_projection_dim=POOLED_DIM,
    )
    write_transformer(folder / "diffusion_transformer_384p", backbone, seed)
    write_vae(folder / "causal_video_vae", seed)


def write_sd3_release(folder: Path, seed: int = 0) -> None:
    """``pyramid-flow-sd3`` as at its release: transformer and VAE as ``.bin``, two CLIPs, T5."""
    write_sd3_text(folder, seed, JOINT_DIM, POOLED_DIM)
    backbone = PyramidMMDiT(
        sample_size=128,
        in_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=1,
        joint_attention_dim=JOINT_DIM,
        pooled_projection_dim=POOLED_DIM,
    )
    write_transformer(folder / "diffusion_transformer_384p", backbone, seed)
    as_bin(folder / "diffusion_transformer_384p")
    write_vae(folder / "causal_video_vae", seed)


def write_transformer(folder: Path, backbone: PyramidFlowTransformer, seed: int) -> None:
    """Random weights in the public layout."""
    randomise(backbone, seed)
    backbone.save_pretrained(folder)


def write_vae(folder: Path, seed: int) -> None:
    """``config.json`` and ``diffusion_pytorch_model.bin``."""
    torch.manual_seed(seed)
    vae = vae_from_config(VAE_CONFIG)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(VAE_CONFIG))
    save_file(vae.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    as_bin(folder)


def as_bin(folder: Path) -> None:
    """Turn the safetensors file of ``folder`` into the ``.bin`` file older releases have."""
    file = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
