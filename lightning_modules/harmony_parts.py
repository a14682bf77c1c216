"""Whether the parts of a Harmony experiment fit together, told before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from components.backbones.harmony_transformer import HarmonyTransformer
from components.contracts import AudioCodec, TextEncoder, TranscriptEncoder, VideoCodec
from components.errors import InputError

Variant = Literal["no_synccfg", "audio_to_video", "video_to_audio"]


def check_parts_fit(
    transformer: HarmonyTransformer,
    audio_codec: AudioCodec,
    video_codec: VideoCodec | None,
    text_encoder: TextEncoder,
    transcript_encoder: TranscriptEncoder | None,
) -> None:
    """Compare the widths, channels and rates that codecs, encoders and transformer must share.

    Raises:
        InputError: naming the two values that differ and the setting to change.
    """
    clock, audio, video = transformer.clock, transformer.audio, transformer.video
    pairs: list[tuple[str, object, str, object]] = []
    if audio is not None:
        pairs += [
            (
                "transformer.audio.channels",
                audio.channels,
                "the audio codec's latents have",
                audio_codec.latent_channels,
            ),
            ("transformer.audio.text_dim", audio.config["text_dim"], "the text encoder gives", text_encoder.dim),
        ]
        width = audio.config["transcript_dim"]
        if (width is None) != (transcript_encoder is None):
            raise InputError(
                "transformer.audio.transcript_dim and transcript_encoder must both be given or both be null."
            )
        if transcript_encoder is not None:
            name = "transformer.audio.transcript_dim"
            pairs.append((name, width, "the transcript encoder gives", transcript_encoder.dim))
    if video is not None:
        pairs.append(
            ("transformer.video.text_dim", video.config["text_dim"], "the text encoder gives", text_encoder.dim)
        )
    if video is not None and video_codec is not None:
        name, factor = "transformer.video.in_channels", video_codec.temporal_factor
        pairs.append((name, video.config["in_channels"], "the video codec's latents have", video_codec.latent_channels))
        pairs.append(("transformer.clock.temporal_factor", clock.temporal_factor, "the video codec's is", factor))
    for name, wanted, what, found in pairs:
        if wanted != found:
            raise InputError(f"{name} is {wanted} but {what} {found}: set them equal.")
    if abs(clock.audio_rate_hz - audio_codec.latent_rate_hz) > 1e-3:
        raise InputError(
            f"transformer.clock.audio_rate_hz is {clock.audio_rate_hz} but the audio codec makes "
            f"{audio_codec.latent_rate_hz:g} latents per second: set them equal."
        )


def check_variants(variants: Sequence[str], generates: str) -> None:
    """Refuse variants that are unknown or need another task than the one that is generated.

    Raises:
        InputError: naming them.
    """
    known = get_args(Variant)
    if unknown := sorted(set(variants) - set(known)):
        raise InputError(f"variants names {unknown}: choose from {list(known)}.")
    driven = sorted(set(variants) - {"no_synccfg"})
    if driven and generates != "joint":
        raise InputError(
            f"variants names {driven} but generates is '{generates}': they stand beside joint generation; leave them "
            "out, or set generates to joint in stage joint."
        )
