"""Cross-Task Synergy: joint, audio-driven and video-driven generation trained as rows of one batch.

Source: Harmony, "Cross-Task Synergy": ``L = L_joint + lambda_v L_driven_by_audio + lambda_a L_driven_by_video``. A
driven row holds one modality clean, at timestep 0; so the task is a property of the row and one forward serves all.
The paper draws one noise level for both modalities, through a shift of 5 (``base: uniform`` of `NoiseLevels`); its
logit-normal levels and their uniform share are ours.

Legend: B clips, R rows (task by task, clip by clip within), C channels, T latents of either modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from components.contracts import Modality
from components.errors import InputError
from components.objectives.task_losses import TASKS, RowErrors
from components.schedules.flow_schedule import NUM_TRAIN_TIMESTEPS

JOINT, AUDIO_DRIVEN, VIDEO_DRIVEN = range(3)
LevelBase = Literal["logit_normal", "uniform"]


@dataclass(frozen=True)
class LevelDraws:
    """Random numbers behind one noise level per clip, ``[B]`` each.

    Attributes:
        normal: standard normal.
        uniform: in (0, 1].
        choice: in [0, 1); a level is uniform where this lies below the law's uniform share.
    """

    normal: Tensor
    uniform: Tensor
    choice: Tensor

    @classmethod
    def draw(cls, num: int, generator: torch.Generator | None, device: torch.device | str) -> LevelDraws:
        """Draws for ``num`` clips."""
        uniform, choice = torch.rand(2, num, generator=generator, device=device)
        # (0, 1] instead of [0, 1): level 0 would tell the model that the clip is clean and given
        return cls(torch.randn(num, generator=generator, device=device), 1 - uniform, choice)


@dataclass(frozen=True)
class NoiseLevels:
    """Law of the noise level s in (0, 1] of one modality: ``s = k u / (1 + (k - 1) u)``.

    Attributes:
        shift: k; the sampler's shift, so that training meets the levels of sampling (5 for Wan2.2 and for Harmony).
        mean: m.
        deviation: d.
        uniform_share: share of clips whose s is drawn uniformly, so that no level is rare.
        base: u before it is bent: ``logit_normal`` (ours), ``sigmoid(m + d n)`` with n standard normal, or ``uniform``
            on (0, 1], as the sampler's own levels lie (the plain reading of the paper's "shift 5").

    Raises:
        InputError: for a number out of range or an unknown ``base``.
    """

    shift: float = 5.0
    mean: float = 0.0
    deviation: float = 1.0
    uniform_share: float = 0.1
    base: LevelBase = "logit_normal"

    def __post_init__(self) -> None:
        if self.base not in get_args(LevelBase):
            raise InputError(f"NoiseLevels.base is '{self.base}': give logit_normal or uniform.")
        for name, value in (("shift", self.shift), ("deviation", self.deviation)):
            if not value > 0:
                raise InputError(f"NoiseLevels.{name} is {value}; it must be positive.")
        if not 0 <= self.uniform_share <= 1:
            raise InputError(f"NoiseLevels.uniform_share is {self.uniform_share}; it must lie between 0 and 1.")

    def __call__(self, draws: LevelDraws) -> Tensor:
        """Noise levels ``[B]``, float32. On the same draws, laws of different shifts differ by the bend alone."""
        u = draws.uniform if self.base == "uniform" else torch.sigmoid(self.mean + self.deviation * draws.normal)
        # k u / (1 + (k - 1) u) bends levels towards noise, as the sampler's `FlowSchedule` bends its own
        bent = self.shift * u / (1 + (self.shift - 1) * u)
        return torch.where(draws.choice < self.uniform_share, draws.uniform, bent)


@dataclass(frozen=True)
class TaskDraws:
    """The random numbers of one batch of B clips.

    Attributes:
        tasks: int64 ``[B]``, the task of each clip; read where tasks are sampled.
        first_frame: bool ``[B]``, clips whose first frame is given.
        video_levels: behind the video's noise levels.
        audio_levels: behind the audio's noise levels; the same object where the modalities share theirs.
        video_noise: standard normal, like the video latents; None without video.
        audio_noise: standard normal, like the audio latents; None without audio.
    """

    tasks: Tensor
    first_frame: Tensor
    video_levels: LevelDraws
    audio_levels: LevelDraws
    video_noise: Tensor | None
    audio_noise: Tensor | None


@dataclass(frozen=True)
class NoisyRows:
    """One modality of R rows.

    Attributes:
        latents: ``(1 - s) x + s n``, or ``x`` where it drives, ``[R, C, T, ...]``.
        timesteps: ``1000 s``, or 0 where it drives, ``[R]``.
        sigma: s, or 0 where it drives, ``[R]``.
        target: ``n - x``.
        mask: bool ``[R, T]``, latents whose velocity is learnt; none where it drives.
        weight: of the row in the loss, ``[R]``.
    """

    latents: Tensor
    timesteps: Tensor
    sigma: Tensor
    target: Tensor
    mask: Tensor
    weight: Tensor

    def errors(self, velocity: Tensor) -> Tensor:
        """Mean squared error over the learnt latents of each row, float32 ``[R]``; 0 where there is none."""
        per_latent = (velocity.float() - self.target).square()
        # over channels and pixels, so that latents in time count alike: [R, T]
        per_latent = per_latent.mean(dim=[d for d in range(per_latent.ndim) if d not in (0, 2)])
        return (per_latent * self.mask).sum(dim=1) / self.mask.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class TaskRows:
    """What the model is shown.

    Attributes:
        repeats: rows per clip; row r belongs to clip ``r mod B``.
        tasks: int64 ``[R]``, index into `TASKS`.
        first_frame: bool ``[R]``, rows whose video latent 0 is clean and given.
        video: None if no video takes part.
        audio: None if no audio takes part.
    """

    repeats: int
    tasks: Tensor
    first_frame: Tensor
    video: NoisyRows | None
    audio: NoisyRows | None


class CrossTaskSynergy:
    """Makes rows of clips and losses of rows. With one modality alone every row is plain flow matching.

    Args:
        task_mode: ``all`` puts every clip into three rows, one for each task (the paper); ``sample`` draws one task
            per clip and weights it by its reciprocal probability: the same loss in expectation for a third of the cost
            per clip.
        probabilities: of joint, audio-driven and video-driven rows under ``sample``.
        audio_driven_weight: lambda_v, weight of the video's loss beside a clean sound (the paper's 0.1).
        video_driven_weight: lambda_a, weight of the sound's loss beside a clean video (the paper's 0.3).
        audio_weight: weight of the sound's errors against the video's, in all tasks.
        independent_timesteps: draw the noise levels of a joint row's modalities independently; else both come from one
            draw, each through its own law, as in sampling.
        first_frame_probability: how often the video's first frame is given.
        video_levels: law of the video's noise levels.
        audio_levels: law of the audio's noise levels; the video's if None.

    Raises:
        InputError: for a setting out of range.
    """

    def __init__(
        self,
        task_mode: Literal["all", "sample"] = "sample",
        probabilities: Sequence[float] = (0.5, 0.25, 0.25),
        audio_driven_weight: float = 0.1,
        video_driven_weight: float = 0.3,
        audio_weight: float = 1.0,
        independent_timesteps: bool = False,
        first_frame_probability: float = 0.5,
        video_levels: NoiseLevels | None = None,
        audio_levels: NoiseLevels | None = None,
    ) -> None:
        if task_mode not in ("all", "sample"):
            raise InputError(f"CrossTaskSynergy.task_mode is '{task_mode}': give all or sample.")
        # 1, lambda_v, lambda_a (Harmony, "Cross-Task Synergy"); lambda_v weighs the video, although the sound drives
        self.weights = (1.0, audio_driven_weight, video_driven_weight)
        for name, value in (
            ("audio_driven_weight", audio_driven_weight),
            ("video_driven_weight", video_driven_weight),
            ("audio_weight", audio_weight),
        ):
            if value < 0:
                raise InputError(f"CrossTaskSynergy.{name} is {value}; it cannot be negative.")
        if len(probabilities) != len(TASKS) or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
            raise InputError(
                f"CrossTaskSynergy.probabilities is {list(probabilities)}: give three numbers that add up to 1, for "
                "joint, audio-driven and video-driven rows."
            )
        for task, weight, probability in zip(TASKS, self.weights, probabilities, strict=True):
            if weight and not probability and task_mode == "sample":
                raise InputError(
                    f"CrossTaskSynergy.probabilities never draws the {task} task, whose weight is {weight}: raise its "
                    "probability or set its weight to 0."
                )
        if not 0 <= first_frame_probability <= 1:
            raise InputError(
                f"CrossTaskSynergy.first_frame_probability is {first_frame_probability}; it must lie between 0 and 1."
            )
        self.task_mode = task_mode
        self.probabilities = tuple(probabilities)
        self.audio_weight = audio_weight
        self.independent_timesteps = independent_timesteps
        self.first_frame_probability = first_frame_probability
        self.video_levels = video_levels or NoiseLevels()
        self.audio_levels = audio_levels or self.video_levels

    def draw(self, video: Tensor | None, audio: Tensor | None, generator: torch.Generator | None) -> TaskDraws:
        """Random numbers for `rows`, from ``generator`` (on the latents' device)."""
        like = video if video is not None else audio
        if like is None:
            raise ValueError("neither video nor audio latents are given")
        num, device = len(like), like.device

        def normal(latents: Tensor | None) -> Tensor | None:
            if latents is None:
                return None
            return torch.randn(latents.shape, generator=generator, device=device)

        # Everything is drawn, in one order, also what a task mode does not read: the mode changes no other number.
        cumulative = _constant(self.probabilities, device).cumsum(0)
        uniform, given = torch.rand(2, num, generator=generator, device=device)
        levels = LevelDraws.draw(num, generator, device)
        return TaskDraws(
            # right=True: a draw of exactly 0 must not fall into a task of probability 0
            tasks=torch.bucketize(uniform, cumulative[:-1], right=True),
            first_frame=given < self.first_frame_probability,
            video_levels=levels,
            audio_levels=LevelDraws.draw(num, generator, device) if self.independent_timesteps else levels,
            video_noise=normal(video),
            audio_noise=normal(audio),
        )

    def rows(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        draws: TaskDraws,
        audio_lengths: Tensor | None = None,
        mute: Tensor | None = None,
        unseen: Tensor | None = None,
    ) -> TaskRows:
        """Rows of B clips.

        Nobody knows what a mute clip was to sound like. Its sound is pure noise in every row and never learnt, so that
        its video is learnt beside any sound at all; driven by the video it learns nothing. The same holds the other way
        round for a clip without picture. (Ours; as UniDiffuser, arXiv 2303.06555, has a marginal: the other modality at
        the highest noise level.)

        Args:
            video: clean latents ``[B, C, T_v, h, w]``, or None.
            audio: clean latents ``[B, C, T_a]``, or None.
            draws: the random numbers; a clip's rows share them.
            audio_lengths: latents of each sound ``[B]`` that hold samples, the rest is padding of the codec; None if
                all do. The silence with which data sets end a short sound (``pad_audio``) is learnt as any sound.
            mute: bool ``[B]``, clips without sound track; None if there is none.
            unseen: bool ``[B]``, clips without picture; None if there is none.
        """
        num, device = len(draws.tasks), draws.tasks.device  # B
        alone = video is None or audio is None
        repeats = 1 if alone or self.task_mode == "sample" else len(TASKS)
        weights = _constant(self.weights, device)
        if alone:  # plain flow matching: nothing can drive
            tasks = torch.zeros_like(draws.tasks)
        elif self.task_mode == "sample":
            tasks = draws.tasks
            # a drawn task stands for all: over the draws, E[weight / probability] is the paper's sum of three losses
            weights = weights / _constant(self.probabilities, device).clamp(min=1e-12)
        else:
            # [R] task by task: rows of one task stand together, as ``repeat`` below lays the clips
            tasks = torch.arange(len(TASKS), device=device).repeat_interleave(num)
        weight = weights[tasks]
        first_frame = draws.first_frame.repeat(repeats) & (tasks != VIDEO_DRIVEN)  # there the whole video is given

        video_rows, audio_rows = None, None
        if video is not None and draws.video_noise is not None:
            clean = (tasks == VIDEO_DRIVEN)[:, None].repeat(1, video.shape[2])  # [R, T_v]: t_v = 0
            clean[:, 0] |= first_frame  # given at timestep 0 and not learnt, as in Wan2.2's image-to-video
            sigma = self.video_levels(draws.video_levels).repeat(repeats)
            learnt = ~clean
            if unseen is not None:
                sigma, clean, learnt = _unknown(unseen.repeat(repeats), sigma, clean, learnt)
                first_frame = first_frame & ~unseen.repeat(repeats)
            video_rows = _noisy(video, draws.video_noise, sigma, clean, learnt, weight)
        if audio is not None and draws.audio_noise is not None:
            clean = (tasks == AUDIO_DRIVEN)[:, None].expand(-1, audio.shape[2])  # [R, T_a]: t_a = 0
            sigma = self.audio_levels(draws.audio_levels).repeat(repeats)
            learnt = ~clean
            if mute is not None:
                sigma, clean, learnt = _unknown(mute.repeat(repeats), sigma, clean, learnt)
            if audio_lengths is not None:
                # padding behind the last sample is noised and attended to, but its velocity is not learnt
                at = torch.arange(audio.shape[2], device=device)
                learnt = learnt & (at < audio_lengths[:, None]).repeat(repeats, 1)
            audio_rows = _noisy(audio, draws.audio_noise, sigma, clean, learnt, weight * self.audio_weight)
        return TaskRows(repeats, tasks, first_frame, video_rows, audio_rows)

    def loss(self, rows: TaskRows, v_v: Tensor | None, v_a: Tensor | None) -> tuple[Tensor, dict[Modality, RowErrors]]:
        """The batch's loss, a mean over its clips, and the errors of its rows by modality."""
        num_clips = len(rows.tasks) // rows.repeats
        total = torch.zeros((), device=rows.tasks.device)
        errors: dict[Modality, RowErrors] = {}
        outputs: tuple[tuple[Modality, NoisyRows | None, Tensor | None], ...]
        outputs = (("video", rows.video, v_v), ("audio", rows.audio, v_a))
        for name, noisy, velocity in outputs:
            if noisy is None or velocity is None:
                continue
            error = noisy.errors(velocity)
            # over clips, not rows: three rows of a clip add up to the paper's L
            total = total + (noisy.weight * error).sum() / num_clips
            # detached: the table of errors would keep the graph of every step
            errors[name] = RowErrors(error.detach(), noisy.mask.any(dim=1), rows.tasks, noisy.sigma)
        return total, errors


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    # copied to the device once: every copy from the host waits until the device has caught up
    return torch.tensor(values, device=device)


def _unknown(unknown: Tensor, sigma: Tensor, clean: Tensor, learnt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noise levels ``[R]``, given and learnt latents ``[R, T]`` where rows in ``unknown`` ``[R]`` are pure noise."""
    return sigma.masked_fill(unknown, 1.0), clean & ~unknown[:, None], learnt & ~unknown[:, None]


def _noisy(data: Tensor, noise: Tensor, sigma: Tensor, clean: Tensor, learnt: Tensor, weight: Tensor) -> NoisyRows:
    """Rows of one modality.

    Args:
        data: clean latents ``[B, C, T, ...]``.
        noise: like ``data``.
        sigma: noise levels ``[R]``.
        clean: bool ``[R, T]``, latents that are given as they are; a row of nothing else drives.
        learnt: bool ``[R, T]``, latents in the loss.
        weight: ``[R]``.
    """
    # draws are the clip's: the three rows share noise, so that only the task tells them apart
    repeats = len(sigma) // len(data)
    tail = [1] * (data.ndim - 3)
    # a row that drives reports level 0; a given first frame alone leaves its row's level as it is
    sigma = sigma.masked_fill(clean.all(dim=1), 0)
    level = (sigma[:, None] * ~clean).view(len(sigma), 1, -1, *tail).to(data.dtype)  # [R, 1, T, ...]
    data, noise = (x.repeat(repeats, 1, 1, *tail) if repeats > 1 else x for x in (data, noise))
    # exactly the data at level 0: nothing is added to a frame that is given
    return NoisyRows(
        (1 - level) * data + level * noise, NUM_TRAIN_TIMESTEPS * sigma, sigma, noise - data, learnt, weight
    )
