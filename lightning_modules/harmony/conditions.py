"""What Harmony generates clips from: texts, first frame, reference voice, anchors, and the modality that drives.

Legend: B clips, C channels, T_v video latents, T_a audio latents, h x w latent pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from components.contracts import ClipBatch, Modality, VideoCodec
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.media.clock import longest_clip
from components.samplers.joint_sampler import JointConditions, ModalityText
from lightning_modules.harmony.inputs import HarmonyInputs, transcripts_of

DrivenTask = Literal["audio_to_video", "video_to_audio"]
JointTask = Literal["joint", "audio_to_video", "video_to_audio"]
Task = Literal["joint", "audio_to_video", "video_to_audio", "audio", "video"]
Variant = Literal["no_synccfg", "audio_to_video", "video_to_audio"]
Still = Literal["grey", "none"]


@dataclass(frozen=True)
class GenerationConfig:
    """What validation, test and prediction make of a clip.

    Attributes:
        task: ``joint``, ``audio_to_video`` (the video of a given sound) or ``video_to_audio``. The audio stages make
            sounds alone and stage video pictures alone, whatever it says.
        from_image: videos begin with the clip's first frame.
        still_without_image: the sound's anchor of SyncCFG where there is no image: a ``grey`` still or ``none``.
        variants: what validation generates besides: ``no_synccfg`` (the same without SyncCFG), ``audio_to_video`` and
            ``video_to_audio`` (one modality of the clip given, the other generated for it).

    Raises:
        InputError: for an unknown choice, or variants that need another task.
    """

    task: JointTask = "joint"
    from_image: bool = True
    still_without_image: Still = "grey"
    variants: tuple[Variant, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, get_args(JointTask)),
            ("still_without_image", self.still_without_image, get_args(Still)),
        ):
            if value not in known:
                raise InputError(f"generation.{name} is '{value}': give one of {', '.join(known)}.")
        if unknown := sorted(set(self.variants) - set(get_args(Variant))):
            raise InputError(f"generation.variants names {unknown}: choose from {list(get_args(Variant))}.")
        if self.driven_variants and self.task != "joint":
            raise InputError(
                f"generation.variants names {self.driven_variants} but generation.task is '{self.task}': they stand "
                "beside joint generation; leave them out, or set generation.task to joint."
            )

    @property
    def driven_variants(self) -> list[str]:
        """The variants in which one modality is generated for the other."""
        return sorted(set(self.variants) & set(get_args(DrivenTask)))

    def task_of(self, stage: str) -> Task:
        """What is generated in a stage of the curriculum.

        Raises:
            InputError: if a stage of one modality is asked for both.
        """
        if stage == "joint":
            return self.task
        alone: Task = "video" if stage == "video" else "audio"
        makes = f"stage {stage} makes {'pictures' if alone == 'video' else 'sounds'} alone"
        if self.driven_variants:
            raise InputError(
                f"generation.variants names {self.driven_variants}, but {makes}: leave them out, or set "
                "curriculum.stage to joint."
            )
        if self.task != "joint":
            raise InputError(
                f"generation.task is '{self.task}', but {makes}: leave it out, or set curriculum.stage to joint."
            )
        return alone


@dataclass(frozen=True)
class NegativesConfig:
    """What text guidance pushes away from; read only where the sampler's guidance is by text.

    Attributes:
        prompt: of the video.
        scene: of the sound.
        transcript: words of the negative branch; None keeps the transcript.

    Raises:
        InputError: if ``transcript`` is the word None.
    """

    prompt: str = ""
    scene: str = ""
    transcript: str | None = ""

    def __post_init__(self) -> None:
        if self.transcript == "None":  # what the parser makes of a null given several classes deep on the command line
            raise InputError(
                "negatives.transcript is the word None: to keep the transcript, set it to null in a file, or give "
                "--model.init_args.negatives '{transcript: null}'."
            )


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
        task: what is generated: both, one from the other, or one modality alone.
        generation: first frames and anchors.
        negatives: negative texts.
    """

    inputs: HarmonyInputs
    task: Task
    generation: GenerationConfig
    negatives: NegativesConfig

    def check_given(self, given: Collection[str]) -> None:
        """What the task is driven by must be given, and what it does not read must not.

        Args:
            given: of ``sounds``, ``scenes``, ``transcripts``, ``references`` and ``whole_videos``.

        Raises:
            InputError: naming what is missing or would be ignored.
        """
        task = f"generation.task is '{self.task}'"
        for name, reads, what in (
            ("sounds", self.task == "audio_to_video", "makes the sound itself"),
            ("whole_videos", self.task == "video_to_audio", "reads first frames alone"),
        ):
            value = "true" if name == "whole_videos" else "a sound for every image"
            if reads and name not in given:
                raise InputError(f"{task}, but data.{name} is not given: give {value}, or set the task to joint.")
            if name in given and not reads:
                wanted = "audio_to_video" if name == "sounds" else "video_to_audio"
                raise InputError(
                    f"data.{name} is given, but {task}, which {what}: leave it out, or set the task to {wanted}."
                )
        if "transcripts" in given and self.inputs.transcript_encoder is None:
            raise InputError(
                "data.transcripts is given, but transcript_encoder is null, so that nothing would be spoken: leave it "
                "out, or give a transcript_encoder."
            )

    def encode(self, batch: ClipBatch, guidance: SyncCFG) -> EncodedClips:
        """All that is encoded; what ``guidance`` does not read is left out.

        Raises:
            InputError: if what the task is driven by is missing or does not fit.
        """
        makes_audio = self.task in ("joint", "video_to_audio", "audio")
        makes_video = self.task in ("joint", "audio_to_video", "video")
        shapes: dict[Modality, tuple[int, ...]] = {}  # of what is generated; the sampler draws noise of them
        given: dict[str, Tensor] = {}
        num_audio = self.inputs.num_latents(batch)
        if makes_audio:
            shapes["audio"] = (self.inputs.audio_codec.latent_channels, num_audio)
        elif self.task == "audio_to_video":
            if not batch.audio.any():
                raise InputError(
                    f"{batch.ids[0]} has no sound, but generation.task is 'audio_to_video': give sounds, or set it to "
                    "joint."
                )
            given["audio"] = self.inputs.audio(batch).latents
        image, still, silence = None, None, None
        if self.task != "audio":
            codec = self.inputs.codec()
            if makes_video and self.generation.from_image and not batch.video.shape[1]:
                raise InputError(
                    f"clip {batch.ids[0]} has no picture, but videos are made from their first frame: give images or "
                    "videos, or set generation.from_image to false."
                )
            # one frame is encoded by itself: the first latent of a causal video VAE is that of the image alone
            first = self.inputs.pixels(batch.video[:, :1])  # [B, 1 or 0, 3, H, W]
            if makes_video:
                num = codec.num_latents(self._num_frames(batch, codec))
                side = codec.spatial_factor
                shapes["video"] = (codec.latent_channels, num, first.shape[-2] // side, first.shape[-1] // side)
                # without generators: the posterior's mean, as Wan's image-to-video takes
                image = codec.encode(first) if self.generation.from_image else None
            else:
                given["video"] = self.inputs.video(batch)
                num = given["video"].shape[2]
            # the anchors of SyncCFG: the video is guided away from silence, the sound from stillness
            if guidance.guides_sync and makes_video and self.task != "video":
                silence = self.inputs.audio_codec.silence(num_audio)
            if guidance.guides_sync and makes_audio:
                still = self._still(codec, first, num)
        reference, lengths = self.inputs.reference(batch)
        video_text, audio_text = self._texts(batch, guidance.guides_text)
        conditions = JointConditions(
            None if self.task == "audio" else video_text,
            None if self.task == "video" else audio_text,
            image,
            reference,
            lengths,
            silence,
            still,
            self.inputs.clock(batch),
        )
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
        conditions, video = joint.conditions, self.inputs.video(batch)
        if conditions.silence is not None and not self.generation.from_image:
            # the given video's own first frame, as where this is the task: the joint anchor is grey, or none
            still = self.inputs.codec().still(self.inputs.pixels(batch.video[:, :1])[:, 0], video.shape[2])
            conditions = replace(conditions, still=still)
        return replace(joint, conditions=conditions, given={"video": video}, shapes={"audio": joint.shapes["audio"]})

    def _texts(self, batch: ClipBatch, with_negatives: bool) -> tuple[ModalityText, ModalityText]:
        """The texts of the video and of the sound."""
        prompts = self.inputs.prompts(batch.captions)
        scenes = prompts if batch.scenes is None else self.inputs.prompts(batch.scenes)
        words = self.inputs.words(transcripts_of(batch), batch.ids)
        if not with_negatives:
            return ModalityText(prompts), ModalityText(scenes, words)
        negative_words = None
        if self.negatives.transcript is not None:
            negative_words = self.inputs.words([self.negatives.transcript] * len(batch), batch.ids)
        prompt, scene = (
            self.inputs.prompts([text] * len(batch)) for text in (self.negatives.prompt, self.negatives.scene)
        )
        return ModalityText(prompts, negative=prompt), ModalityText(scenes, words, scene, negative_words)

    def _still(self, codec: VideoCodec, first: Tensor, num_latents: int) -> Tensor | None:
        """Latents ``[B, C, T_v, h, w]`` of a video that does not move: the sound's anchor of SyncCFG.

        Args:
            codec: the video codec.
            first: first frames ``[B, 1, 3, H, W]``.
            num_latents: T_v.
        """
        # the clip's own first frame: what differs from the joint branch is motion alone
        if self.generation.from_image or self.task == "video_to_audio":
            return codec.still(first[:, 0], num_latents)
        if self.generation.still_without_image == "none":
            return None
        # -1 .. 1 pixels: 0 is grey
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
        # a hundredth of a frame: sounds of whole frames whose samples were rounded down still give them all
        frames = int(batch.audio.shape[1] / batch.sample_rate * batch.fps + 0.01)
        if frames < 1 + factor:
            raise InputError(
                f"the sound of {batch.ids[0]} is shorter than the shortest video ({(1 + factor) / batch.fps:.2f} s): "
                "give a longer sound, or a video."
            )
        return longest_clip(frames, factor)
