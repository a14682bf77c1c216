"""What Harmony compares before anything runs: its parts with each other, and its stage with the data."""

from __future__ import annotations

from components.backbones.harmony.model import HarmonyTransformer
from components.contracts import AudioCodec, TextEncoder, TranscriptEncoder, VideoCodec
from components.errors import InputError
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.ordered_data_module import OrderedDataModule


def check_parts_fit(
    transformer: HarmonyTransformer,
    audio_codec: AudioCodec,
    video_codec: VideoCodec | None,
    text_encoder: TextEncoder,
    transcript_encoder: TranscriptEncoder | None,
) -> None:
    """Compare the widths and channels that codecs, encoders and transformer must share.

    Raises:
        InputError: naming the two values that differ and the setting to change.
    """
    audio, video = transformer.audio, transformer.video
    pairs: list[tuple[str, object, str, object]] = []
    if audio is not None:
        latents = audio_codec.latent_channels
        pairs.append(("transformer.audio.channels", audio.channels, "the audio codec's latents have", latents))
        name, width = "transformer.audio.text_dim", audio.config["text_dim"]
        pairs.append((name, width, "the text encoder gives", text_encoder.dim))
        name, width = "transformer.audio.transcript_dim", audio.config["transcript_dim"]
        if (width is None) != (transcript_encoder is None):
            raise InputError(f"{name} and transcript_encoder must both be given or both be null.")
        if transcript_encoder is not None:
            pairs.append((name, width, "the transcript encoder gives", transcript_encoder.dim))
    if video is not None:
        name, width = "transformer.video.text_dim", video.config["text_dim"]
        pairs.append((name, width, "the text encoder gives", text_encoder.dim))
        if video_codec is not None:
            name, width = "transformer.video.in_channels", video.config["in_channels"]
            pairs.append((name, width, "the video codec's latents have", video_codec.latent_channels))
    for name, wanted, what, found in pairs:
        if wanted != found:
            raise InputError(f"{name} is {wanted} but {what} {found}: set them equal.")


def check_pictures(data: object, stage: str) -> None:
    """Compare a stage that learns videos with what it is to train on.

    Raises:
        InputError: if all training clips are sounds alone.
    """
    parts = data.dataset("train").parts if isinstance(data, OrderedDataModule) else []
    if parts and all(isinstance(part, ClipDataset) and part.reader.audio_only for part in parts):
        raise InputError(
            f"all training clips are sounds alone (audio_only), but stage {stage} learns videos: give videos, beside "
            "the sounds in a mixture if you like, or train with stage audio or timbre."
        )
