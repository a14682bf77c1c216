"""Clips as Harmony's transformer takes them: latents of picture, sound and reference, and what is said about them.

Whether the parts of a Harmony experiment fit together, told before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from components.backbones.harmony.latent_clock import LatentClock
from components.backbones.harmony.model import HarmonyTransformer
from components.contracts import AudioCodec, ClipBatch, TextEncoder, TextFeatures, TranscriptEncoder, VideoCodec
from components.errors import InputError

_AUDIBLE = 1e-3
_MOVING = 0.5


@dataclass(frozen=True)
class Sound:
    """Latents ``[B, C, T_a]`` of B sounds and how many of each are real ``[B]`` (None: all)."""

    latents: Tensor
    lengths: Tensor | None


@dataclass(frozen=True)
class HarmonyInputs:
    """Encodes batches of clips, after checking that they fit the experiment.

    Attributes:
        audio_codec: sound to latents.
        text_encoder: prompts to tokens.
        transcript_encoder: spoken words to tokens; None for a transformer that takes none.
        video_codec: pictures to latents; None where no video takes part.
        clock: rates the transformer was built for.
        side_step: sides of frames are multiples of it (codec times patch).
        num_audio_latents: T_a; None derives it from the clip's duration.
        num_reference_latents: slot of the reference.
    """

    audio_codec: AudioCodec
    text_encoder: TextEncoder
    transcript_encoder: TranscriptEncoder | None
    video_codec: VideoCodec | None
    clock: LatentClock
    side_step: int
    num_audio_latents: int | None
    num_reference_latents: int

    def video(self, batch: ClipBatch) -> Tensor:
        """Latents ``[B, C, T_v, h, w]`` of the videos.

        Raises:
            InputError: if the clips have no moving picture, or do not fit codec and transformer.
        """
        if batch.video_latents is not None:
            return batch.video_latents
        if batch.video.shape[1] < 2:
            raise InputError(
                f"clip {batch.ids[0]} has {batch.video.shape[1]} video frames, so it is a sound alone, but this task "
                "needs videos: give videos, or train with stage audio or timbre."
            )
        return self.codec().encode(self.pixels(batch.video, batch.fps))

    def pixels(self, video: Tensor, fps: float) -> Tensor:
        """uint8 frames ``[B, T, 3, H, W]`` to [-1, 1].

        Raises:
            InputError: if rate or sides of the frames do not fit.
        """
        if abs(fps - self.clock.video_fps) > 1e-6:
            raise InputError(
                f"the clips have {fps} frames per second but transformer.clock.video_fps is {self.clock.video_fps}: "
                "set the data module's fps to match."
            )
        for name, side in zip(("height", "width"), video.shape[-2:], strict=True):
            if side % self.side_step:
                low = max(self.side_step, side // self.side_step * self.side_step)
                raise InputError(
                    f"{name} {side} cannot be divided by codec and patches: it must be a multiple of {self.side_step}; "
                    f"set the data module's {name} to {low} or {low + self.side_step}."
                )
        return video.float().div_(127.5).sub_(1)

    def audio(self, batch: ClipBatch) -> Sound:
        """Latents of the sounds.

        Raises:
            InputError: if there is no sound, or its rate or length does not fit.
        """
        num_samples = batch.audio.shape[1]
        if not num_samples:
            raise InputError(
                f"clip {batch.ids[0]} has no sound, but this task needs one: give clips with a sound track."
            )
        num = self.num_latents(batch)
        waveform = self.audio_codec.fit(batch.audio, num, batch.sample_rate)
        real = math.ceil(num_samples / self.audio_codec.latent_hop)
        lengths = None
        if real < num:
            lengths = torch.full((len(batch),), real, device=waveform.device)
        return Sound(self.audio_codec.encode(waveform), lengths)

    def num_latents(self, batch: ClipBatch) -> int:
        """T_a of the clips.

        Raises:
            InputError: if the experiment fixes another number than the clips' duration allows.
        """
        frames = batch.video.shape[1]
        duration_s = frames / batch.fps if frames > 1 else batch.audio.shape[1] / batch.sample_rate
        fitting = self.audio_codec.num_latents_for(duration_s)
        if self.num_audio_latents is None:
            return fitting
        if abs(self.num_audio_latents - fitting) > 1:
            raise InputError(
                f"num_audio_latents is {self.num_audio_latents}, but clip {batch.ids[0]} lasts {duration_s:.2f} s, in "
                f"which {fitting} latents fit: set num_audio_latents to {fitting}, or cut other clips."
            )
        return self.num_audio_latents

    def reference(self, batch: ClipBatch, dropped: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """Latents ``[B, C, T_r]`` of the reference sounds and how many are real ``[B]``; 0 shows the null token.

        Args:
            batch: the clips.
            dropped: bool ``[B]``, clips whose reference is not shown.

        Raises:
            InputError: if a reference is longer than its slot.
        """
        waveform, samples = batch.reference_audio, batch.reference_lengths
        device = batch.audio.device
        if waveform is None or samples is None:
            return None, torch.zeros(len(batch), dtype=torch.long, device=device)
        hop, rate = self.audio_codec.latent_hop, self.audio_codec.sample_rate
        longest = int(samples.max())
        if longest > self.num_reference_latents * hop:
            clip = batch.ids[int(samples.argmax())]
            raise InputError(
                f"the reference of clip {clip} lasts {longest / rate:.2f} s but its slot holds "
                f"{self.num_reference_latents * hop / rate:.2f} s: shorten the data module's reference_s or set "
                f"num_reference_latents to {math.ceil(longest / hop)}."
            )
        slot = min(self.num_reference_latents, math.ceil(waveform.shape[1] / hop))
        lengths = (samples // hop).clamp(min=1, max=slot).masked_fill(samples == 0, 0)
        if dropped is not None:
            lengths = lengths.masked_fill(dropped, 0)
        return self.audio_codec.encode(self.audio_codec.fit(waveform, slot, batch.sample_rate)), lengths

    def prompts(self, captions: Sequence[str]) -> TextFeatures:
        """Encoded prompts."""
        return self.text_encoder(captions)

    def words(self, transcripts: Sequence[str], ids: Sequence[str]) -> TextFeatures | None:
        """Encoded transcripts; None if the transformer takes none.

        Raises:
            InputError: if one is too long.
        """
        return None if self.transcript_encoder is None else self.transcript_encoder(transcripts, ids)

    def codec(self) -> VideoCodec:
        """The video codec.

        Raises:
            InputError: if there is none.
        """
        if self.video_codec is None:
            raise InputError("this task needs a video_codec: give one, or train with stage audio or timbre.")
        return self.video_codec


def transcripts_of(batch: ClipBatch) -> list[str]:
    """What is said in each clip, empty where nothing is."""
    return [""] * len(batch) if batch.transcripts is None else list(batch.transcripts)


def scenes_of(batch: ClipBatch) -> list[str]:
    """What each clip sounds like, in words; its caption where nothing else is said."""
    return list(batch.captions if batch.scenes is None else batch.scenes)


def carries_sound(batch: ClipBatch) -> Tensor:
    """Bool ``[B]``: clips that are not silent (some sample beyond -60 dB)."""
    if not batch.audio.shape[1]:
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.audio.device)
    return batch.audio.abs().amax(dim=1) > _AUDIBLE


def carries_motion(batch: ClipBatch) -> Tensor:
    """Bool ``[B]``: clips in which some frame differs from the first by half a grey level on average."""
    if batch.video.shape[1] < 2:
        latents = batch.video_latents
        if latents is None or latents.shape[2] < 3:
            return torch.zeros(len(batch), dtype=torch.bool, device=batch.video.device)
        change = (latents[:, :, 2:] - latents[:, :, 1:2]).abs()  # latent 0 is one frame and never like the others
        return change.flatten(1).amax(dim=1) > 1e-2
    first = batch.video[:, :1].float()
    different = [(frames.float() - first).abs().mean(dim=(2, 3, 4)) for frames in batch.video.split(8, dim=1)]
    return torch.cat(different, dim=1).amax(dim=1) > _MOVING


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
