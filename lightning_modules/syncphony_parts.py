"""Whether the parts of a Syncphony experiment fit together, told before anything runs."""

from __future__ import annotations

from components.backbones.syncphony_dit import SyncphonyDiT
from components.contracts import AudioEncoder, TextEncoder, VideoCodec
from components.errors import InputError
from components.objectives.pyramid_columns import AutoregressivePyramid
from components.samplers.pyramid_sampler import PyramidSampler


def check_parts_fit(
    dit: SyncphonyDiT, codec: VideoCodec, text_encoder: TextEncoder, audio_encoder: AudioEncoder | None
) -> None:
    """Compare the widths, channels and factors that codec, encoders and transformer must share.

    Raises:
        InputError: naming the two values that differ and the setting to change.
    """
    if (audio_encoder is None) != (dit.audio_embedder is None):
        raise InputError("dit.audio_dim and audio_encoder must both be given or both be null.")
    if audio_encoder is not None and audio_encoder.dim != dit.audio_dim:
        raise InputError(f"dit.audio_dim is {dit.audio_dim} but the audio encoder gives {audio_encoder.dim}.")
    wanted = tuple(dit.backbone.config[key] for key in ("joint_attention_dim", "pooled_projection_dim"))
    if (text_encoder.dim, text_encoder.pooled_dim) != wanted:
        raise InputError(
            f"the text encoder gives tokens of width {text_encoder.dim} and pooled vectors of width "
            f"{text_encoder.pooled_dim} but the backbone takes {wanted[0]} and {wanted[1]}: set them equal."
        )
    if codec.latent_channels != dit.backbone.latent_channels:
        mend = dit.backbone.config["in_channels"] // dit.backbone.latent_channels * codec.latent_channels
        raise InputError(
            f"the codec has {codec.latent_channels} latent channels but the backbone takes "
            f"{dit.backbone.latent_channels}: set the backbone's in_channels to {mend}."
        )
    if codec.temporal_factor != dit.timeline.temporal_factor:
        raise InputError(
            f"dit.timeline.temporal_factor is {dit.timeline.temporal_factor} but the codec's is "
            f"{codec.temporal_factor}: set them equal."
        )


def check_pyramids_fit(pyramid: AutoregressivePyramid, sampler: PyramidSampler) -> None:
    """Training and sampling must cut clips and noise levels alike.

    Raises:
        InputError: naming both settings.
    """
    trained, sampled = ((p.schedule.stages, p.frames_per_unit) for p in (pyramid, sampler))
    if trained != sampled:
        raise InputError(
            f"pyramid has {trained[0]} stages and frames_per_unit {trained[1]} but sampler has {sampled[0]} stages "
            f"and frames_per_unit {sampled[1]}: set them equal."
        )
