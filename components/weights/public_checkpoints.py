"""The architectures of the public Pyramid Flow releases, known without their files.

With this a full experiment can be described - its parameters counted, its memory estimated - on a machine that has no
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MINIFLUX = "rain1011/pyramid-flow-miniflux"
SD3 = "rain1011/pyramid-flow-sd3"

_MINIFLUX_TRANSFORMER: Mapping[str, Any] = {
    "_class_name": "PyramidFluxTransformer",
    "in_channels": 64,
    "num_layers": 8,
    "num_single_layers": 16,
    "attention_head_dim": 64,
    "num_attention_heads": 30,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 24, 24),
    "use_temporal_causal": True,
    "interp_condition_pos": True,
}

_SD3_TRANSFORMER: Mapping[str, Any] = {
    "_class_name": "PyramidDiffusionMMDiT",
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "use_temporal_causal": True,
    "interp_condition_pos": True,
}

_VAE: Mapping[str, Any] = {
    "_class_name": "CausalVideoVAE",
    "encoder_in_channels": 3,
    "encoder_out_channels": 16,
    "encoder_layers_per_block": (2, 2, 2, 2),
    "encoder_block_out_channels": (128, 256, 512, 512),
    "encoder_spatial_down_sample": (True, True, True, False),
    "encoder_temporal_down_sample": (True, True, True, False),
    "encoder_norm_num_groups": 32,
    "decoder_in_channels": 16,
    "decoder_out_channels": 3,
    "decoder_layers_per_block": (3, 3, 3, 3),
    "decoder_block_out_channels": (128, 256, 512, 512),
    "decoder_spatial_up_sample": (True, True, True, False),
    "decoder_temporal_up_sample": (True, True, True, False),
    "decoder_norm_num_groups": 32,
}

CONFIGS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    (MINIFLUX, "diffusion_transformer_384p"): _MINIFLUX_TRANSFORMER,
    (MINIFLUX, "diffusion_transformer_768p"): _MINIFLUX_TRANSFORMER,
    (MINIFLUX, "diffusion_transformer_image"): _MINIFLUX_TRANSFORMER,
    (SD3, "diffusion_transformer_384p"): _SD3_TRANSFORMER,
    (SD3, "diffusion_transformer_768p"): _SD3_TRANSFORMER,
    (MINIFLUX, "causal_video_vae"): _VAE,
    (SD3, "causal_video_vae"): _VAE,
}
"""What ``config.json`` says in each folder of the two hub repositories, as far as it shapes the network."""

_PIPELINE: Mapping[str, Mapping[str, Any]] = {
    "PyramidFluxTransformer": {"use_temporal_causal": True, "interp_condition_pos": True},
    "PyramidDiffusionMMDiT": {"use_temporal_causal": True, "interp_condition_pos": True},
}


def as_the_pipeline_runs_it(config: Mapping[str, Any]) -> dict[str, Any]:
    """A release's ``config.json`` with what the reference pipeline sets over it whenever it loads the model.

    Those entries reflect the code's defaults when the file was written, not how the model was trained. Files written
    by diffusers are told by ``_diffusers_version``; what avsync saves says how the model runs and is left as it is.
    """
    forced = _PIPELINE.get(str(config.get("_class_name")), {}) if "_diffusers_version" in config else {}
    return {**config, **forced}
