"""Joint audio-video sampling: both, the video of a given sound, or the sound of a given video, by what is given.

Source: Harmony, "Cross-Task Synergy" and "SyncCFG". One loop runs all tasks: a modality that is given stays clean at
timestep 0, one that is generated walks down its own schedule. The rows that guidance needs are one batched call
of a `JointModel`.

Legend: B clips, C channels, T_v video and T_a audio latents, h x w latent pixels, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from components.contracts import MODALITIES, Modality, ReportsProgress, TextFeatures
from components.encoders.text.rows import stack_text
from components.guidance.sync_cfg import Branch, ModalityGuidance, SyncCFG
from components.media.clock import LatentClock
from components.schedules.flow_schedule import FlowSchedule, FlowTrajectory


class JointModel(Protocol):
    """A model of both modalities in which every row has its own pair of timesteps, such as `HarmonyTransformer`."""

    def __call__(
        self,
        z_v: Tensor | None,
        z_a: Tensor | None,
        z_r: Tensor | None = None,
        *,
        t_v: Tensor | None = None,
        t_a: Tensor | None = None,
        first_frame: Tensor | None = None,
        text_v: TextFeatures | None = None,
        text_a: TextFeatures | None = None,
        transcript: TextFeatures | None = None,
        ref_len: Tensor | None = None,
        clock: LatentClock | None = None,
        active: Sequence[Modality] = MODALITIES,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities ``n - x`` of video and audio, like ``z_v`` and ``z_a``; None for a modality that is not active.

        Args:
            z_v: noisy video latents ``[R, C_v, T_v, h, w]``; where ``first_frame``, latent 0 is the clean one.
            z_a: noisy audio latents ``[R, C_a, T_a]``.
            z_r: clean latents of a reference sound ``[R, C_a, T_r]``, padded at the end.
            t_v: timesteps of the video ``[R]`` in 0 .. 1000; 0 for a row whose video drives.
            t_a: timesteps of the audio ``[R]``; 0 for a row whose audio drives.
            first_frame: bool ``[R]``, rows whose latent 0 is given.
            text_v: prompts of the video.
            text_a: descriptions of the acoustic scene.
            transcript: spoken words.
            ref_len: real latents of each reference ``[R]``.
            clock: rates of the latents.
            active: the modalities that take part.
        """


@runtime_checkable
class KeepsDrivers(Protocol):
    """A model that can keep what a driving modality tells the other one."""

    def driver_features(self, num_rows: int, driving: Mapping[Modality, Sequence[int]]) -> object | None:
        """What its calls then take as ``drivers``; None where a driving modality's features change from step to step.

        Args:
            num_rows: R of the calls.
            driving: by modality, the rows in which it is clean, the same in all calls.
        """


@dataclass(frozen=True)
class ModalityText:
    """The texts of one modality of B clips.

    Attributes:
        prompt: the video's prompts, or the descriptions of the acoustic scene.
        transcript: the spoken words; None for the video and for sounds without any.
        negative: what text guidance pushes away from; None where nothing is guided by text.
        negative_transcript: the words of the negative rows; None keeps the transcript.
    """

    prompt: TextFeatures
    transcript: TextFeatures | None = None
    negative: TextFeatures | None = None
    negative_transcript: TextFeatures | None = None

    def of(self, negative: bool) -> tuple[TextFeatures, TextFeatures | None]:
        """Prompt and transcript of a positive or a negative branch.

        Raises:
            ValueError: if there is no negative prompt.
        """
        if not negative:
            return self.prompt, self.transcript
        if self.negative is None:
            raise ValueError("guidance reads negative prompts but none are given")
        transcript = self.transcript
        if transcript is not None and self.negative_transcript is not None:
            transcript = self.negative_transcript
        return self.negative, transcript


@dataclass(frozen=True)
class JointConditions:
    """What B clips are generated from.

    Attributes:
        video_text: prompts of the video; None if no video takes part.
        audio_text: descriptions and transcripts of the sound; None if no sound takes part.
        image: latent frame 0 ``[B, C, 1, h, w]``, kept as it is; None generates it.
        reference: clean latents of a reference sound ``[B, C, T_r]``, padded at the end, or None.
        reference_lengths: real latents of each reference ``[B]``; 0 shows the null token. None if all are real.
        silence: latents of silence ``[C, T_a]``, the anchor of the video; None leaves it unguided by sync.
        still: latents of a video that does not move ``[B, C, T_v, h, w]``, the anchor of the sound; None leaves it
            unguided by sync.
        clock: rates of the latents, for models that need them.
    """

    video_text: ModalityText | None = None
    audio_text: ModalityText | None = None
    image: Tensor | None = None
    reference: Tensor | None = None
    reference_lengths: Tensor | None = None
    silence: Tensor | None = None
    still: Tensor | None = None
    clock: LatentClock | None = None


class JointSampler:
    """Samples latents of both modalities, or of one from the other.

    Args:
        num_steps: denoising steps, the same for both modalities (Harmony: 40; Wan2.2: 50).
        video_schedule: noise levels and solver of the video (Wan2.2: UniPC, shift 5; Harmony: shift 5).
        audio_schedule: noise levels and solver of the sound; as the video's if None.
        guidance: SyncCFG and text guidance.
        keep_drivers: compute a modality that drives, or the anchor of SyncCFG, in the first step alone and keep its
            keys and values, where the model allows it (Harmony's ``driver_isolated``). They take 4 bytes per token,
            layer and channel of the interaction in bfloat16, twice that with ``style_kv: own``: 3.0 GB of a 480p video.

    Raises:
        ValueError: for less than one step.
    """

    def __init__(
        self,
        num_steps: int = 50,
        video_schedule: FlowSchedule | None = None,
        audio_schedule: FlowSchedule | None = None,
        guidance: SyncCFG | None = None,
        keep_drivers: bool = True,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
        self.num_steps = num_steps
        self.video_schedule = video_schedule or FlowSchedule()
        self.audio_schedule = audio_schedule or self.video_schedule
        self.guidance = guidance or SyncCFG()
        self.keep_drivers = keep_drivers

    @torch.no_grad()
    def sample(
        self,
        model: JointModel,
        conditions: JointConditions,
        *,
        video_noise: Tensor | None = None,
        audio_noise: Tensor | None = None,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        guidance: SyncCFG | None = None,
        progress: ReportsProgress | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Video latents ``[B, C_v, T_v, h, w]`` and audio latents ``[B, C_a, T_a]``, float32.

        A modality starts from its noise, or is given and returned as it is, or takes no part and is None. Draw the
        noise with `ClipNoise`, so that a clip's does not depend on its batch.

        Args:
            model: both modalities.
            conditions: texts, first frame, reference and anchors.
            video_noise: standard normal ``[B, C_v, T_v, h, w]``: generate a video.
            audio_noise: standard normal ``[B, C_a, T_a]``: generate a sound.
            video: clean latents: what the sound is generated for.
            audio: clean latents: what the video is generated for.
            guidance: instead of the sampler's own.
            progress: called after every step.

        Raises:
            ValueError: if a modality has both noise and latents, nothing is to be generated, or a text is missing.
        """
        guide = guidance or self.guidance
        # a video that is given has its first frame already
        image = conditions.image if video is None else None
        video_stream = _stream("video", video, video_noise, self.video_schedule, self.num_steps, image)
        audio_stream = _stream("audio", audio, audio_noise, self.audio_schedule, self.num_steps)
        if video_noise is None and audio_noise is None:
            raise ValueError("nothing to sample: give video_noise, audio_noise or both")
        runner = _BranchRunner(model, conditions, video_stream, audio_stream, self.keep_drivers)
        # an anchor replaces the partner of what is generated: without a partner there is nothing to guide away from
        together = video_stream is not None and audio_stream is not None

        for step in range(self.num_steps):
            guided: list[tuple[_Stream, ModalityGuidance]] = []
            if video_stream is not None and video_stream.trajectory is not None:
                anchored = together and conditions.silence is not None
                guided.append((video_stream, guide.video(video_stream.sigma(step), anchored)))
            if audio_stream is not None and audio_stream.trajectory is not None:
                anchored = together and conditions.still is not None
                guided.append((audio_stream, guide.audio(audio_stream.sigma(step), anchored)))
            # the joint branch is always run: all corrections start from it
            needed = {"joint", *(branch for _, modality in guided for branch in modality.branches())}
            branches = [branch for branch in _ORDER if branch in needed]
            # by modality and branch [B, C, T, ...]; the silent branch guides the video alone, the still one the sound
            velocities = runner.run(branches, step, guide.anchor_text == "negative")
            for stream, modality in guided:
                stream.advance(step, modality.combine(velocities[stream.modality]))
            if progress is not None:
                progress(1)
        video_out, audio_out = (None if stream is None else stream.visible() for stream in (video_stream, audio_stream))
        return video_out, audio_out


# a fixed order, so that the same branches make the same batch
_ORDER: tuple[Branch, ...] = ("joint", "negative", "silent", "still")


@dataclass
class _Stream:
    """One modality on its way from noise to data, or given (no trajectory)."""

    modality: Modality
    latents: Tensor
    trajectory: FlowTrajectory | None
    image: Tensor | None = None

    def visible(self) -> Tensor:
        """The latents with their first frame in place: as Wan2.2's image-to-video replaces it before every step."""
        if self.image is None:
            return self.latents
        return torch.cat([self.image.to(self.latents.dtype), self.latents[:, :, 1:]], dim=2)

    def sigma(self, step: int) -> float:
        return 0.0 if self.trajectory is None else float(self.trajectory.sigmas[step])

    def timestep(self, step: int) -> float:
        return 0.0 if self.trajectory is None else float(self.trajectory.timesteps[step])

    def advance(self, step: int, velocity: Tensor) -> None:
        if self.trajectory is not None:
            self.latents = self.trajectory.step(step, velocity, self.latents)


def _stream(
    modality: Modality,
    latents: Tensor | None,
    noise: Tensor | None,
    schedule: FlowSchedule,
    num_steps: int,
    image: Tensor | None = None,
) -> _Stream | None:
    if latents is not None and noise is not None:
        raise ValueError(f"{modality} has both noise and latents: it is either generated or given")
    if noise is not None:
        # float32 from step to step: bfloat16 latents would round small moves away
        return _Stream(modality, noise.float(), schedule.start(num_steps), image)
    # timesteps of a given modality are 0: it drives (Cross-Task Synergy's tasks)
    return None if latents is None else _Stream(modality, latents, None)


class _BranchRunner:
    """Runs the branches of a step as rows of one batch; what does not change between steps is stacked once."""

    def __init__(
        self,
        model: JointModel,
        conditions: JointConditions,
        video: _Stream | None,
        audio: _Stream | None,
        keep_drivers: bool,
    ) -> None:
        self.model = model
        self.given = conditions
        self.video = video
        self.audio = audio
        self.active: list[Modality] = [stream.modality for stream in (video, audio) if stream is not None]
        # guidance may end at a noise level, so that the set of branches changes between steps
        self._fixed_rows: dict[tuple[Branch, ...], dict[str, Any]] = {}
        self._keeper = model if keep_drivers and isinstance(model, KeepsDrivers) else None

    def run(
        self, branches: Sequence[Branch], step: int, negative_anchors: bool
    ) -> dict[Modality, dict[Branch, Tensor]]:
        """Velocities of every branch, float32, by modality."""
        # later entries win: what changes in every step
        rows = {"z_v": None, "z_a": None, **self._fixed(tuple(branches), negative_anchors)}
        if self.video is not None:
            rows["z_v"], rows["t_v"] = _rows(self.video, step, branches, "still", self.given.still)
        if self.audio is not None:
            rows["z_a"], rows["t_a"] = _rows(self.audio, step, branches, "silent", self.given.silence)
        outputs = self.model(**rows, clock=self.given.clock, active=self.active)
        # rows are stacked branch by branch: R = branches x B
        return {
            modality: dict(zip(branches, out.float().chunk(len(branches)), strict=True))
            for modality, out in zip(MODALITIES, outputs, strict=True)
            if out is not None
        }

    def _fixed(self, branches: tuple[Branch, ...], negative_anchors: bool) -> dict[str, Any]:
        """Texts, reference, first-frame flags and kept features of all rows."""
        if branches not in self._fixed_rows:
            given, num = self.given, len(branches)
            # one flag per branch: which of the two texts its B rows read
            negative = [b == "negative" or (negative_anchors and b in ("silent", "still")) for b in branches]
            fixed: dict[str, Any] = {}
            if self.video is not None:
                fixed["text_v"], _ = _text(given.video_text, "video", negative)
                if self.video.image is not None:
                    fixed["first_frame"] = self.video.image.new_ones(num * len(self.video.image), dtype=torch.bool)
            if self.audio is not None:
                fixed["text_a"], fixed["transcript"] = _text(given.audio_text, "audio", negative)
                if given.reference is not None:
                    # the same reference in every branch, so that guidance does not move the voice
                    fixed["z_r"] = given.reference.repeat(num, 1, 1)
                if given.reference_lengths is not None:
                    fixed["ref_len"] = given.reference_lengths.repeat(num)
            if self._keeper is not None and self.video is not None and self.audio is not None:
                drivers = self._keeper.driver_features(num * len(self.video.latents), self._driving(branches))
                fixed |= {} if drivers is None else {"drivers": drivers}
            self._fixed_rows[branches] = fixed
        return self._fixed_rows[branches]

    def _driving(self, branches: Sequence[Branch]) -> dict[Modality, list[int]]:
        """Rows in which each modality is clean in all steps."""
        driving: dict[Modality, list[int]] = {}
        anchors: tuple[tuple[_Stream | None, Branch, Tensor | None], ...] = (
            (self.video, "still", self.given.still),
            (self.audio, "silent", self.given.silence),
        )
        for stream, anchor, clean in anchors:
            if stream is not None:
                num = len(stream.latents)
                given = [stream.trajectory is None or (branch == anchor and clean is not None) for branch in branches]
                driving[stream.modality] = [row for row in range(num * len(branches)) if given[row // num]]
        return driving


def _rows(
    stream: _Stream, step: int, branches: Sequence[Branch], anchor: Branch, clean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Latents and timesteps ``[R]`` of one modality: as they stand, but ``clean`` and at 0 in the branch ``anchor``."""
    moving, timestep = stream.visible(), stream.timestep(step)
    latents, timesteps = [], []
    for branch in branches:
        if branch == anchor and clean is not None:
            # silence is one sound for all clips, [C, T_a]: it is expanded over them
            latents.append(clean.to(moving.dtype).expand_as(moving))
            timesteps.append(moving.new_zeros(len(moving)))
        else:
            latents.append(moving)
            timesteps.append(moving.new_full((len(moving),), timestep))
    return torch.cat(latents), torch.cat(timesteps)


def _text(
    text: ModalityText | None, modality: Modality, negative: Sequence[bool]
) -> tuple[TextFeatures, TextFeatures | None]:
    """Prompts and transcripts of all branches."""
    if text is None:
        raise ValueError(f"{modality} takes part but has no text")
    prompts, transcripts = zip(*(text.of(choice) for choice in negative), strict=True)
    words = [transcript for transcript in transcripts if transcript is not None]
    return stack_text(*prompts), stack_text(*words) if words else None
