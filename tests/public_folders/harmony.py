"""What Harmony's experiments read, tiny: Wan2.2 in diffusers layout, MMAudio's two files, ByT5, and SyncNet's file."""

from pathlib import Path
from typing import Any

import torch

from components.codecs.audio.mmaudio_checkpoint import VARIANTS
from components.metrics.syncnet.model import SyncNet
from tests.public_folders.harmony_codecs import write_bigvgan_folder, write_diffusers_folder, write_pickle
from tests.public_folders.transcripts import write_byt5, write_wan_text

TEXT_DIM, TRANSCRIPT_DIM, NUM_LAYERS = 32, 24, 2

WAN_TRANSFORMER: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": NUM_LAYERS,
}

WAN_VAE: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "decoder_base_dim": 4,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "patch_size": 2,
    "dim_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "latents_mean": [0.5, -1.0, 0.0, 0.2],
    "latents_std": [0.5, 2.0, 1.0, 3.0],
}


def write_harmony_releases(folder: Path) -> None:
    """``wan``, ``mmaudio``, ``byt5`` and ``syncnet_v2.model``, the last at full size: its file says no widths."""
    write_wan_release(folder / "wan")
    write_mmaudio(folder / "mmaudio")
    write_byt5(folder / "byt5", TRANSCRIPT_DIM)
    torch.manual_seed(3)
    write_pickle(folder / "syncnet_v2.model", SyncNet().state_dict())


def write_wan_release(folder: Path) -> None:
    """``transformer`` and ``vae`` as diffusers stores them, ``text_encoder`` and ``tokenizer``."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    torch.manual_seed(1)
    WanTransformer3DModel(**WAN_TRANSFORMER).save_pretrained(folder / "transformer")
    weights = AutoencoderKLWan(**WAN_VAE).state_dict()
    write_diffusers_folder(folder / "vae", "AutoencoderKLWan", WAN_VAE, weights)
    write_wan_text(folder, TEXT_DIM)


def write_mmaudio(folder: Path) -> None:
    """``v1-16.pth``, without front end and before weights are normalised, and BigVGAN's ``best_netG.pt``."""
    from diffusers import MMAudioVAE, MMAudioVocoder

    torch.manual_seed(2)
    release = VARIANTS["16k"]
    vae = MMAudioVAE(**(dict(release.vae) | {"hidden_channels": 8})).vae.state_dict()
    raw = {key: torch.randn_like(value) if key.endswith(".weight") else value for key, value in vae.items()}
    write_pickle(folder / "v1-16.pth", raw)
    config = dict(release.vocoder) | {"upsample_initial_channel": 64}
    file = write_bigvgan_folder(folder, config, MMAudioVocoder(**config), "old", bias=True)
    file.rename(folder / "best_netG.pt")
    (folder / "config.json").unlink()  # version 1 is published as the file alone
