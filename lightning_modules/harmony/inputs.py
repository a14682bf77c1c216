"""A batch of clips on its way into Harmony's transformer: latents, texts, and the rows of all tasks.

In the order of a training step: `HarmonyInputs` encodes, `HarmonyRows` drops conditions and lays the tasks out as rows
of one forward pass.

Legend: B clips, R rows, C channels, T_v video latents, T_a audio and T_r reference latents, h x w latent pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.contracts import (
    AudioCodec,
    ClipBatch,
    LatentMoments,
    Modality,
    TextEncoder,
    TextFeatures,
    TranscriptEncoder,
    VideoCodec,
)
from components.encoders.text.rows import emptied_rows, stack_text
from components.errors import InputError
from components.media.clock import LatentClock
from components.objectives.cross_task import CrossTaskSynergy, TaskRows
from lightning_modules.base import host_generator


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
        temporal_factor: frames per video latent after the first.
        side_step: sides of frames are multiples of it (codec times patch).
    """

    audio_codec: AudioCodec
    text_encoder: TextEncoder
    transcript_encoder: TranscriptEncoder | None
    video_codec: VideoCodec | None
    temporal_factor: int
    side_step: int

    def clock(self, batch: ClipBatch) -> LatentClock:
        """Rates of the clips' latents."""
        return LatentClock(batch.fps, self.temporal_factor, self.audio_codec.latent_rate_hz)

    def video(self, batch: ClipBatch, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents ``[B, C, T_v, h, w]`` of the videos.

        Args:
            batch: the clips.
            seeds: of the draws from the posterior, one for each clip; None takes its mean.

        Raises:
            InputError: if the clips have no moving picture, or do not fit codec and transformer.
        """
        if batch.video_latents is not None:
            self._check_sides(*(side * self.codec().spatial_factor for side in batch.video_latents.shape[-2:]))
            std = None if batch.prepared is None else batch.prepared.video_std
            return LatentMoments(batch.video_latents, std).draw(seeds)
        if batch.video.shape[1] < 2:
            raise InputError(
                f"clip {batch.ids[0]} has {batch.video.shape[1]} video frames, so it is a sound alone, but this task "
                "needs videos: give videos, or train with stage audio or timbre."
            )
        return self.codec().moments(self.pixels(batch.video)).draw(seeds)

    def unseen_video(self, batch: ClipBatch) -> Tensor:
        """In the place of latents ``[B, C, T_v, h, w]`` of sounds alone: zeros; nobody knows what was to be seen."""
        codec, (height, width) = self.codec(), batch.video.shape[-2:]
        self._check_sides(height, width)
        frames = round(batch.num_samples / batch.sample_rate * batch.fps)
        num = 1 + max(1, round((frames - 1) / codec.temporal_factor))
        factor = codec.spatial_factor
        shape = (len(batch), codec.latent_channels, num, height // factor, width // factor)
        return torch.zeros(shape, device=batch.audio.device)

    def pixels(self, video: Tensor) -> Tensor:
        """uint8 frames ``[B, T, 3, H, W]`` to [-1, 1].

        Raises:
            InputError: if the sides of the frames do not fit.
        """
        self._check_sides(*video.shape[-2:])
        return video.float().div_(127.5).sub_(1)

    def _check_sides(self, height: int, width: int) -> None:
        """Sides in pixels."""
        for name, side in (("height", height), ("width", width)):
            if side % self.side_step:
                low = max(self.side_step, side // self.side_step * self.side_step)
                raise InputError(
                    f"{name} {side} cannot be divided by codec and patches: it must be a multiple of {self.side_step}; "
                    f"set clip.{name} to {low} or {low + self.side_step}."
                )

    def audio(self, batch: ClipBatch, seeds: Sequence[int] | None = None) -> Sound:
        """Latents of the sounds.

        Args:
            batch: the clips.
            seeds: of the draws from the posterior, one for each clip; None takes its mean.

        Raises:
            InputError: if there is no sound, or its rate does not fit.
        """
        num_samples = batch.num_samples
        if not num_samples:
            raise InputError(
                f"clip {batch.ids[0]} has no sound, but this task needs one: give clips with a sound track."
            )
        num, prepared = self.num_latents(batch), batch.prepared
        if prepared is not None and prepared.audio_latents is not None:
            moments = LatentMoments(prepared.audio_latents, prepared.audio_std)
        else:
            moments = self.audio_codec.moments(self.audio_codec.fit(batch.audio, num, batch.sample_rate))
        latents = moments.draw(seeds)[..., :num]  # a batch is cut to its shortest clip
        # a begun latent counts: its sound is real
        real = math.ceil(num_samples / self.audio_codec.latent_hop)
        lengths = None
        if real < num:
            lengths = torch.full((len(batch),), real, device=latents.device)
        return Sound(latents, lengths)

    def num_latents(self, batch: ClipBatch) -> int:
        """T_a of the clips: as many as fit into the pictures' duration, or into the sound's where there are none."""
        frames = batch.num_frames
        # one frame is a picture, not a duration
        duration_s = frames / batch.fps if frames > 1 else batch.num_samples / batch.sample_rate
        return self.audio_codec.num_latents_for(duration_s)

    def reference(self, batch: ClipBatch, dropped: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """Latents ``[B, C, T_r]`` of the reference sounds and how many are real ``[B]``; 0 shows the null token.

        T_r follows from the batch's slot (the data module's ``reference_s``); a begun latent counts.

        Args:
            batch: the clips.
            dropped: bool ``[B]``, on the host: clips whose reference is not shown.
        """
        waveform, samples = batch.reference_audio, batch.reference_lengths
        latents = None if batch.prepared is None else batch.prepared.reference_latents
        hop = self.audio_codec.latent_hop
        if samples is not None and waveform is not None:
            slot = math.ceil(waveform.shape[1] / hop)
            latents = self.audio_codec.encode(self.audio_codec.fit(waveform, slot, batch.sample_rate))
        if samples is None or latents is None:
            return None, torch.zeros(len(batch), dtype=torch.long, device=batch.audio.device)
        slot = latents.shape[-1]
        # Whole latents only, so that none holds a part of the padding; but at least one, as 0 means no reference.
        lengths = (samples // hop).clamp(min=1, max=slot).masked_fill(samples == 0, 0)
        if dropped is not None:
            lengths = lengths.masked_fill(dropped.to(lengths.device, non_blocking=True), 0)
        return latents, lengths

    def dropped_texts(
        self, batch: ClipBatch, no_text: Tensor, no_transcript: Tensor, with_video: bool
    ) -> tuple[TextFeatures, TextFeatures, TextFeatures | None]:
        """Prompts, scenes and transcripts of training clips, some of them dropped.

        Args:
            batch: the clips.
            no_text: bool ``[B]``, on the host: clips that show neither prompt nor scene.
            no_transcript: bool ``[B]``, on the host: clips that show no transcript.
            with_video: whether prompts are read; they are the scenes otherwise.

        Raises:
            InputError: if a transcript is too long.
        """
        own_prompts = with_video and batch.scenes is not None
        prepared = batch.prepared
        if prepared is not None and batch.text_features is not None:
            described = prepared.scene_features or batch.text_features
            scenes = emptied_rows(described, prepared.null_text, no_text)
            prompts = emptied_rows(batch.text_features, prepared.null_text, no_text) if own_prompts else scenes
            words = prepared.transcript_features
            if words is not None:
                words = emptied_rows(words, prepared.null_transcript, no_transcript)
            return prompts, scenes, None if self.transcript_encoder is None else words
        scenes = self.prompts(_emptied(scenes_of(batch), no_text))
        prompts = self.prompts(_emptied(batch.captions, no_text)) if own_prompts else scenes
        return prompts, scenes, self.words(_emptied(transcripts_of(batch), no_transcript), batch.ids)

    def dropped_prompts(self, batch: ClipBatch, no_text: Tensor) -> TextFeatures:
        """Prompts of training clips whose sound takes no part, some of them dropped.

        Args:
            batch: the clips.
            no_text: bool ``[B]``, clips that show no prompt.
        """
        if batch.prepared is not None and batch.text_features is not None:
            return emptied_rows(batch.text_features, batch.prepared.null_text, no_text)
        return self.prompts(_emptied(batch.captions, no_text))

    def prompts(self, captions: Sequence[str]) -> TextFeatures:
        """Encoded prompts."""
        features: TextFeatures = self.text_encoder(captions)
        return features

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


@dataclass(frozen=True)
class DropoutConfig:
    """Probabilities of training a row without a condition. The paper does not name any.

    Attributes:
        reference: of the null reference.
        text: of the empty prompt and the empty description of the scene, together.
        transcript: of the empty transcript.

    Raises:
        InputError: for a number that is no probability.
    """

    reference: float = 0.1
    text: float = 0.1
    transcript: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"dropout.{name} is {value}: give a probability from 0 to 1.")


@dataclass(frozen=True)
class HarmonyRows:
    """Encodes clips, drops conditions and lays the tasks out as rows of one forward pass.

    Attributes:
        inputs: codecs and encoders.
        tasks: Cross-Task Synergy.
        modalities: those that are learnt.
        needs_reference: clips must come with reference voices.
        dropout: how often a row lacks its reference, texts or transcript.
    """

    inputs: HarmonyInputs
    tasks: CrossTaskSynergy
    modalities: Sequence[Modality]
    needs_reference: bool
    dropout: DropoutConfig

    def draw(
        self, batch: ClipBatch, generator: torch.Generator, seeds: Sequence[int] | None = None
    ) -> tuple[TaskRows, dict[str, Any]]:
        """Rows of all tasks and the transformer's arguments for them.

        Args:
            batch: B clips.
            generator: decides everything random, on the clips' device.
            seeds: of the draws from the codecs' posteriors, one for each clip; None takes their means.

        Raises:
            InputError: if the clips do not fit the experiment.
        """
        with torch.no_grad():
            video, unseen = self._video(batch, seeds)  # [B, C_v, T_v, h, w], [B]
            sound = self.inputs.audio(batch, seeds) if "audio" in self.modalities else None  # [B, C_a, T_a]
            if self.needs_reference and batch.reference_lengths is None:
                raise InputError(
                    "stage timbre learns voices from reference sounds, but the data module gives none: set its "
                    "reference_s, or train stage audio."
                )
            # The order of draws is part of the numbers: noise and tasks first, then one uniform per condition and clip.
            latents = None if sound is None else sound.latents
            draws = self.tasks.draw(video, latents, generator)
            uniform = torch.rand(3, len(batch), generator=host_generator(generator))
            no_reference = uniform[0] < self.dropout.reference
            no_text = uniform[1] < self.dropout.text
            no_transcript = uniform[2] < self.dropout.transcript

            if sound is None:  # voices and words are the sound's
                reference, lengths = None, torch.zeros(len(batch), dtype=torch.long, device=generator.device)
                prompts = scenes = self.inputs.dropped_prompts(batch, no_text)
                words = None
            else:
                reference, lengths = self.inputs.reference(batch, no_reference)  # [B, C_a, T_r], [B]
                prompts, scenes, words = self.inputs.dropped_texts(batch, no_text, no_transcript, video is not None)
            lengths_a = None if sound is None else sound.lengths
            rows = self.tasks.rows(video, latents, draws, lengths_a, batch.mute, unseen)

        def repeated(features: TextFeatures | None) -> TextFeatures | None:
            # rows of one task after the other, as `CrossTaskSynergy.rows` lays the clips
            return features if features is None or rows.repeats == 1 else stack_text(*[features] * rows.repeats)

        arguments: dict[str, Any] = {
            "z_v": None,
            "z_a": None,
            "z_r": None if reference is None else reference.repeat(rows.repeats, 1, 1),  # [R, C_a, T_r]
            "ref_len": lengths.repeat(rows.repeats),
            "transcript": repeated(words),
            "clock": self.inputs.clock(batch),
        }
        if rows.video is not None:
            arguments |= {"z_v": rows.video.latents, "t_v": rows.video.timesteps, "text_v": repeated(prompts)}
            arguments["first_frame"] = rows.first_frame
        if rows.audio is not None:
            arguments |= {"z_a": rows.audio.latents, "t_a": rows.audio.timesteps, "text_a": repeated(scenes)}
        return rows, arguments

    def _video(self, batch: ClipBatch, seeds: Sequence[int] | None) -> tuple[Tensor | None, Tensor | None]:
        """Latents of the videos, and which clips have none: all or none, as batches are of one kind."""
        if "video" not in self.modalities:
            return None, None
        if "audio" in self.modalities and batch.num_frames == 0 and batch.video_latents is None:
            video = self.inputs.unseen_video(batch)
            return video, torch.ones(len(batch), dtype=torch.bool, device=video.device)
        return self.inputs.video(batch, seeds), None


def _emptied(texts: Sequence[str], dropped: Tensor) -> list[str]:
    return ["" if drop else text for drop, text in zip(dropped.tolist(), texts, strict=True)]


def transcripts_of(batch: ClipBatch) -> list[str]:
    """What is said in each clip, empty where nothing is."""
    return [""] * len(batch) if batch.transcripts is None else list(batch.transcripts)


def scenes_of(batch: ClipBatch) -> list[str]:
    """What each clip sounds like, in words; its caption where nothing else is said."""
    return list(batch.captions if batch.scenes is None else batch.scenes)
