"""What Harmony generates clips from: texts, first frame, reference voice, anchors, and what drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from components.backbones.harmony.model import Modality
from components.contracts import ClipBatch, VideoCodec
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.samplers.joint_sampler import JointConditions, ModalityText
from lightning_modules.harmony.inputs import HarmonyInputs, transcripts_of

DrivenTask = Literal["audio_to_video", "video_to_audio"]
Task = Literal["joint", "audio_to_video", "video_to_audio", "audio"]


@dataclass(frozen=True)
class EncodedClips:
    """What B clips are generated from, encoded once for all variants.

    Attributes:
        conditions: texts, first frame, reference and anchors.
        given: clean latents (``video`` or ``audio``) of the modality that drives, if one does.
        shapes: ``(C, T, ...)`` of the modalities to be generated.
        ids: names of the clips; they seed the noise.
    """

    conditions: JointConditions
    given: dict[str, Tensor]
    shapes: dict[Modality, tuple[int, ...]]
    ids: Sequence[str]


@dataclass(frozen=True)
class HarmonyConditions:
    """Encodes what one task needs of a batch of clips.

    Attributes:
        inputs: codecs and encoders.
        task: what is generated: both, one from the other, or ``audio`` alone.
        from_image: videos begin with the clip's first frame.
        still_without_image: the sound's anchor where there is no image: a ``grey`` still or ``none``.
        negative_prompt: what text guidance pushes the video away from.
        negative_scene: what text guidance pushes the sound away from.
        negative_transcript: words of the negative branch; None keeps the transcript.
    """

    inputs: HarmonyInputs
    task: Task
    from_image: bool
    still_without_image: Literal["grey", "none"]
    negative_prompt: str
    negative_scene: str
    negative_transcript: str | None

    def encode(self, batch: ClipBatch, guidance: SyncCFG) -> EncodedClips:
        """All that is encoded; what ``guidance`` does not read is left out.

        Raises:
            InputError: if what the task is driven by is missing or does not fit.
        """
        makes_audio, makes_video = self.task != "audio_to_video", self.task in ("joint", "audio_to_video")
        shapes: dict[Modality, tuple[int, ...]] = {}
        given: dict[str, Tensor] = {}
        num_audio = self.inputs.num_latents(batch)
        if makes_audio:
            shapes["audio"] = (self.inputs.audio_codec.latent_channels, num_audio)
        else:
            if not batch.audio.any():
                raise InputError(
                    f"{batch.ids[0]} has no sound, but generates is 'audio_to_video': give sounds, or generate jointly."
                )
            given["audio"] = self.inputs.audio(batch).latents
        image, still, silence = None, None, None
        if self.task != "audio":
            codec = self.inputs.codec()
            if makes_video and self.from_image and not batch.video.shape[1]:
                raise InputError(
                    f"clip {batch.ids[0]} has no picture, but videos are made from their first frame: give images or "
                    "videos, or set from_image to false."
                )
            first = self.inputs.pixels(batch.video[:, :1], batch.fps)
            if makes_video:
                num = codec.num_latents(self._num_frames(batch, codec))
                side = codec.spatial_factor
                shapes["video"] = (codec.latent_channels, num, first.shape[-2] // side, first.shape[-1] // side)
                image = codec.encode(first) if self.from_image else None
            else:
                given["video"] = self.inputs.video(batch)
                num = given["video"].shape[2]
            if guidance.guides_sync and makes_video:
                silence = self.inputs.audio_codec.silence(num_audio)
            if guidance.guides_sync and makes_audio:
                still = self._still(codec, first, num)
        reference, lengths = self.inputs.reference(batch)
        video_text, audio_text = self._texts(batch, guidance.guides_text)
        seen = None if self.task == "audio" else video_text
        conditions = JointConditions(seen, audio_text, image, reference, lengths, silence, still)
        return EncodedClips(conditions, given, shapes, batch.ids)

    def driven(self, joint: EncodedClips, batch: ClipBatch, task: DrivenTask) -> EncodedClips:
        """What one modality is generated from where the other one is given; all the rest is shared with ``joint``.

        Args:
            joint: what `encode` made of ``batch`` for the task ``joint``.
            batch: the clips.
            task: which modality from which.

        Raises:
            InputError: if what the task is driven by is missing or does not fit.
        """
        if task == "audio_to_video":
            return replace(
                joint, given={"audio": self.inputs.audio(batch).latents}, shapes={"video": joint.shapes["video"]}
            )
        return replace(joint, given={"video": self.inputs.video(batch)}, shapes={"audio": joint.shapes["audio"]})

    def _texts(self, batch: ClipBatch, with_negatives: bool) -> tuple[ModalityText, ModalityText]:
        """What is said to the video and to the sound."""
        prompts = self.inputs.prompts(batch.captions)
        scenes = prompts if batch.scenes is None else self.inputs.prompts(batch.scenes)
        words = self.inputs.words(transcripts_of(batch), batch.ids)
        if not with_negatives:
            return ModalityText(prompts), ModalityText(scenes, words)
        unsaid = None
        if self.negative_transcript is not None:
            unsaid = self.inputs.words([self.negative_transcript] * len(batch), batch.ids)
        prompt, scene = (
            self.inputs.prompts([text] * len(batch)) for text in (self.negative_prompt, self.negative_scene)
        )
        return ModalityText(prompts, negative=prompt), ModalityText(scenes, words, scene, unsaid)

    def _still(self, codec: VideoCodec, first: Tensor, num_latents: int) -> Tensor | None:
        """Latents of a video that does not move, the anchor of the sound; ``first`` frames are ``[B, 1, 3, H, W]``."""
        if self.from_image or self.task == "video_to_audio":
            return codec.still(first[:, 0], num_latents)
        if self.still_without_image == "none":
            return None
        grey = first.new_zeros(1, *first.shape[2:])  # there may be no frame at all
        return codec.still(grey, num_latents).expand(len(first), -1, -1, -1, -1)

    def _num_frames(self, batch: ClipBatch, codec: VideoCodec) -> int:
        """Frames of the clips; where only a first frame is given, as many as the sound covers and the codec can make.

        Raises:
            InputError: if the sound is shorter than the shortest video.
        """
        if batch.video.shape[1] > 1:
            return batch.video.shape[1]
        factor = codec.temporal_factor
        frames = int(batch.audio.shape[1] / batch.sample_rate * batch.fps + 0.01)
        if frames < 1 + factor:
            raise InputError(
                f"the sound of {batch.ids[0]} is shorter than the shortest video ({(1 + factor) / batch.fps:.2f} s): "
                "give a longer sound, or a video."
            )
        return 1 + (frames - 1) // factor * factor
