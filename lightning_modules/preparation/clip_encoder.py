"""Clips to what is kept of them: latents with their posterior, features of sound and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from components.contracts import (
    AudioCodec,
    AudioEncoder,
    ClipBatch,
    LatentMoments,
    TextEncoder,
    TextFeatures,
    TranscriptEncoder,
    VideoCodec,
)
from components.encoders.text.rows import split_rows
from components.media.activity import carries_motion, carries_sound
from components.media.clock import ClipShape
from datamodules.prepared.prepared_clip import PreparedClip
from datamodules.reading.clip_dataset import Clip, collate_clips

Encoded = list[dict[str, Tensor]]


@dataclass(frozen=True)
class ClipEncoder:
    """The frozen parts that an experiment has; what it lacks is not encoded.

    Attributes:
        shape: what clips look like.
        device: where parts compute.
        video_codec: pictures to latents.
        audio_codec: sound and reference voices to latents.
        audio_encoder: sound to features.
        text_encoder: captions and scenes to features.
        transcript_encoder: spoken words to features.
    """

    shape: ClipShape
    device: torch.device
    video_codec: VideoCodec | None = None
    audio_codec: AudioCodec | None = None
    audio_encoder: AudioEncoder | None = None
    text_encoder: TextEncoder | None = None
    transcript_encoder: TranscriptEncoder | None = None

    @classmethod
    def of(cls, shape: ClipShape, device: torch.device, parts: Mapping[str, nn.Module]) -> ClipEncoder:
        """With parts by their roles."""
        moved: dict[str, Any] = {role: part.to(device) for role, part in parts.items()}
        return cls(shape, device, **moved)

    @torch.no_grad()
    def encode(self, clips: Sequence[Clip]) -> list[PreparedClip]:
        """What is kept of each clip; clips of one length go through the networks together."""
        found: list[PreparedClip | None] = [None] * len(clips)
        by_length: dict[int, list[int]] = {}
        for row, clip in enumerate(clips):
            by_length.setdefault(len(clip.audio), []).append(row)
        for rows in by_length.values():
            for row, prepared in zip(rows, self._encode([clips[row] for row in rows]), strict=True):
                found[row] = prepared
        return [clip for clip in found if clip is not None]

    @torch.no_grad()
    def empty(self) -> PreparedClip:
        """The empty texts, as a dropped prompt or transcript shows them."""
        tensors: dict[str, Tensor] = {}
        pad_to: dict[str, int] = {}
        for kinds, encoder in ((("caption", "scene"), self.text_encoder), (("transcript",), self.transcript_encoder)):
            if encoder is not None:
                features: TextFeatures = encoder([""])
                for kind in kinds:
                    (row,) = _text_tensors(features, kind)
                    tensors |= row
                    # what the shortest text is padded to, every text is padded to
                    pad_to[kind] = features.tokens.shape[1]
        return PreparedClip(pad_to=pad_to, tensors=tensors)

    def _encode(self, clips: Sequence[Clip]) -> list[PreparedClip]:
        batch = collate_clips(clips, self.shape).to(self.device)
        sounding, moving = carries_sound(batch).tolist(), carries_motion(batch).tolist()
        tensors: Encoded = [{} for _ in clips]
        rate_hz = first_center_s = 0.0
        for encoded in (self._video(batch), self._audio(batch), self._reference(batch), *self._texts(clips)):
            for row, more in zip(tensors, encoded, strict=bool(encoded)):
                row |= more
        if self.audio_encoder is not None:
            features = self.audio_encoder(batch.audio, batch.sample_rate)
            rate_hz, first_center_s = features.rate_hz, features.first_center_s
            for row, tokens, mask in zip(tensors, features.tokens, features.mask, strict=True):
                row |= {"features": tokens, "features_mask": mask}
        return [
            PreparedClip(
                id=clip.id,
                video_id=clip.video_id,
                caption=clip.caption,
                transcript=clip.transcript,
                scene=clip.scene,
                onsets=clip.onsets,
                spoken_s=clip.spoken_s,
                reference_length=None if clip.reference is None else clip.reference_length,
                num_frames=clip.video.shape[0],
                num_samples=len(clip.audio),
                sounding=sounding[row],
                moving=moving[row],
                mute=clip.mute,
                rate_hz=rate_hz,
                first_center_s=first_center_s,
                tensors=tensors[row],
            )
            for row, clip in enumerate(clips)
        ]

    def _video(self, batch: ClipBatch) -> Encoded:
        if self.video_codec is None or batch.video.shape[1] < 2:
            return []
        return _moment_tensors(self.video_codec.moments(batch.video.float().div_(127.5).sub_(1)), "video")

    def _audio(self, batch: ClipBatch) -> Encoded:
        codec, frames = self.audio_codec, batch.video.shape[1]
        if codec is None:
            return []
        # one frame is a picture, not a duration
        duration_s = frames / batch.fps if frames > 1 else batch.audio.shape[1] / batch.sample_rate
        waveform = codec.fit(batch.audio, codec.num_latents_for(duration_s), batch.sample_rate)
        return _moment_tensors(codec.moments(waveform), "audio")

    def _reference(self, batch: ClipBatch) -> Encoded:
        codec, waveform = self.audio_codec, batch.reference_audio
        if codec is None or waveform is None:
            return []
        slot = math.ceil(waveform.shape[1] / codec.latent_hop)
        latents = codec.encode(codec.fit(waveform, slot, batch.sample_rate))
        return [{"reference": one} for one in latents]

    def _texts(self, clips: Sequence[Clip]) -> list[Encoded]:
        found: list[Encoded] = []
        if self.text_encoder is not None:
            found.append(_text_tensors(self.text_encoder([clip.caption for clip in clips]), "caption"))
            scenes = _text_tensors(self.text_encoder([clip.scene or clip.caption for clip in clips]), "scene")
            found.append([row if clip.scene is not None else {} for row, clip in zip(scenes, clips, strict=True)])
        if self.transcript_encoder is not None:
            words = self.transcript_encoder([clip.transcript or "" for clip in clips], [clip.id for clip in clips])
            found.append(_text_tensors(words, "transcript"))
        return found


def unusable(reason: str) -> PreparedClip:
    """In the place of a clip that cannot be used."""
    return replace(PreparedClip(), fault=reason)


def _moment_tensors(moments: LatentMoments, name: str) -> Encoded:
    means = [{name: mean} for mean in moments.mean]
    if moments.std is None:
        return means
    return [row | {f"{name}_std": std} for row, std in zip(means, moments.std, strict=True)]


def _text_tensors(features: TextFeatures, kind: str) -> Encoded:
    return [
        {f"{kind}.tokens": row.tokens} | ({} if row.pooled is None else {f"{kind}.pooled": row.pooled})
        for row in split_rows(features)
    ]
