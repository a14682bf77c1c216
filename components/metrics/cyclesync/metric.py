"""CycleSync: does a generated video still tell when the sounds happened?

A video-to-audio model turns the generated video back into sound; the onsets of that sound are matched one to one with
the onsets of the sound that drove the generation. Reference: metrics specification, sections 2 and 11.

    score of a clip = I / (|A| + |B| - I)        I = size of a maximum matching within the tolerance
    CycleSync       = 100 x mean over recordings of the mean over their clips
    interval        = 2.5 and 97.5 % points of that mean when recordings are drawn with replacement (bootstrap)

Clips of one recording are averaged first because they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from components.contracts import MetricResult
from components.errors import InputError
from components.metrics.cyclesync.matching import onset_iou
from components.metrics.cyclesync.onsets import OnsetDetector
from components.metrics.recording_means import interval_of_mean, mean_and_spread

UndefinedPolicy = Literal["skip", "zero", "one"]
Onsets = Sequence[Sequence[float]]
"""Onset times in seconds, one sequence per clip."""


def common_duration_s(num_frames: int, fps: float, *tracks: tuple[Tensor, int]) -> float:
    """Seconds that the video and every track ``(audio [..., S], sample_rate)`` all cover."""
    return min([num_frames / fps, *(audio.shape[-1] / rate for audio, rate in tracks)])


def cyclesync_onsets(
    audio: Tensor,
    sample_rate: int,
    duration_s: float | Sequence[float] | Tensor | None = None,
    detector: OnsetDetector | None = None,
) -> list[list[float]]:
    """Onsets of the part of each track that is compared.

    Args:
        audio: ``[B, S]`` mono, or ``[B, C, S]``.
        sample_rate: samples per second of ``audio``.
        duration_s: what all tracks of a clip cover (see :func:`common_duration_s`); longer audio is cut there.
        detector: None takes the standard one (22 050 Hz, hop 512, no gate).

    Returns:
        B sorted lists of seconds.
    """
    return (detector or OnsetDetector())(audio, sample_rate, duration_s)


def cyclesync_per_clip(driving: Onsets, inferred: Onsets, tolerances_s: Sequence[float]) -> list[list[float | None]]:
    """Score of each clip at each tolerance: B rows in [0, 1], None where neither list holds an onset.

    Args:
        driving: onsets of the conditioning sound, per clip.
        inferred: onsets of the sound inferred from the generated video, per clip.
        tolerances_s: seconds by which matched onsets may differ.

    Raises:
        InputError: if the two hold different numbers of clips.

    Example:
        >>> cyclesync_per_clip([[0.5, 1.0], []], [[0.52], []], tolerances_s=[0.01, 0.05])
        [[0.0, 0.5], [None, None]]
    """
    if len(driving) != len(inferred):
        raise InputError(
            f"onsets of {len(driving)} driving tracks cannot be compared with {len(inferred)} inferred ones"
        )
    undefined: list[float | None] = [None] * len(tolerances_s)
    scores = (onset_iou(a, b, tolerances_s) for a, b in zip(driving, inferred, strict=True))
    return [undefined if score is None else list(score) for score in scores]


def mean_of_samples(samples: Sequence[Sequence[float | None]], undefined: UndefinedPolicy) -> list[float | None]:
    """Score of one clip at each tolerance, over the sounds that were drawn for it.

    Args:
        samples: the clip's row of `cyclesync_per_clip` for each sound.
        undefined: what a sound counts as that leaves nothing to compare; where all do, so does the clip.

    Example:
        >>> mean_of_samples([[0.5], [None], [0.1]], "skip"), mean_of_samples([[0.5], [None]], "one")
        ([0.3], [0.75])
    """
    known = [[score for score in row if score is not None] for row in samples]
    if not any(known):
        return list(samples[0])
    filled = [float(undefined == "one")] * len(samples[0])
    counted = [row or filled for row in known if row or undefined != "skip"]
    return [fmean(scores) for scores in zip(*counted, strict=True)]


def mean_over_recordings(video_sum: Tensor, video_count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation (ddof 1) and standard error of the per-recording means, x100.

    Args:
        video_sum: ``[K, V]`` sums of the clip scores in [0, 1] of each recording, K kinds of score.
        video_count: ``[V]`` clips of each recording; those without clips do not take part.

    Returns:
        Three ``[K]``; NaN where no clip (mean) or fewer than two recordings (spread) are there.
    """
    return mean_and_spread(100.0 * video_sum, video_count)


class CycleSync(Metric):
    """CycleSync over a set of recordings, at several tolerances in one pass; sums only, exact under any sharding.

    Args:
        num_videos: how many recordings the set holds; ``video_index`` runs from 0 to ``num_videos - 1``.
        tolerance_s: the tolerance of the headline value; one frame at 24 fps by default.
        extra_tolerances_s: further tolerances reported beside it.
        undefined: what a clip counts as when neither track has an onset: left out, 0 or 1. It is counted always.
        kwargs: handed to :class:`torchmetrics.Metric`.

    Raises:
        InputError: for an empty set, a negative tolerance or an unknown policy.

    Example:
        >>> metric = CycleSync(num_videos=2, tolerance_s=0.05, extra_tolerances_s=(0.1,))
        >>> metric.update([[0.5, 1.0], [0.2]], [[0.52, 1.08], [0.2]], video_index=[0, 1])
        >>> {name: round(value.item(), 1) for name, value in metric.compute().items() if name.startswith("at_")}
        {'at_0.05': 66.7, 'at_0.1': 100.0}
        >>> metric.result().n
        2
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    video_sum: Tensor
    video_count: Tensor
    undefined_count: Tensor

    def __init__(
        self,
        num_videos: int,
        tolerance_s: float = 1 / 24,
        extra_tolerances_s: Sequence[float] = (0.05, 0.1, 0.2),
        undefined: UndefinedPolicy = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_videos < 1:
            raise InputError(f"num_videos is {num_videos}; CycleSync needs at least one recording")
        if undefined not in get_args(UndefinedPolicy):
            raise InputError(f"undefined is '{undefined}'; use one of {', '.join(get_args(UndefinedPolicy))}")
        # the headline comes first; a tolerance asked for twice is counted once
        self.tolerances_s = (tolerance_s, *(extra for extra in extra_tolerances_s if extra != tolerance_s))
        if min(self.tolerances_s) < 0:
            raise InputError(f"tolerances are {list(self.tolerances_s)}; they cannot be negative")
        self.undefined = undefined
        # float64: sums of scores come out the same whatever the order of the shards, to far below what is printed
        self.add_state("video_sum", torch.zeros(len(self.tolerances_s), num_videos, dtype=torch.float64), "sum")
        self.add_state("video_count", torch.zeros(num_videos, dtype=torch.int64), "sum")
        self.add_state("undefined_count", torch.zeros((), dtype=torch.int64), "sum")

    def update(
        self,
        driving_onsets: Onsets,
        inferred_onsets: Onsets,
        video_index: Sequence[int] | Tensor,
        valid: Sequence[bool] | Tensor | None = None,
        num_samples: int = 1,
    ) -> None:
        """Adds a batch of clips.

        Args:
            driving_onsets: onsets of the conditioning sound in seconds, one sequence per clip.
            inferred_onsets: onsets of the inferred sound.
            video_index: the recording each clip was cut from.
            valid: False for clips that only even out the batches of several ranks; they do not count.
            num_samples: sounds that were inferred from each clip: so many sequences in a row belong to one, and count
                as one by their mean (`mean_of_samples`).

        Raises:
            InputError: if the numbers of clips differ or an index is outside ``[0, num_videos)``.
        """
        found = cyclesync_per_clip(driving_onsets, inferred_onsets, self.tolerances_s)
        drawn = [found[first : first + num_samples] for first in range(0, len(found), num_samples)]
        scores = [mean_of_samples(samples, self.undefined) for samples in drawn]
        index = [int(video) for video in video_index]
        counted = [True] * len(scores) if valid is None else [bool(flag) for flag in valid]
        if not len(scores) == len(index) == len(counted):
            raise InputError(f"{len(scores)} clips came with {len(index)} video indices and {len(counted)} valid flags")
        num_videos = len(self.video_count)
        added = torch.zeros(self.video_sum.shape, dtype=torch.float64)
        count = torch.zeros(num_videos, dtype=torch.int64)
        undefined = 0
        for row, video, counts in zip(scores, index, counted, strict=True):
            if not 0 <= video < num_videos:
                raise InputError(f"video index {video} is outside 0..{num_videos - 1}, the recordings of this metric")
            if not counts:
                continue
            known = [score for score in row if score is not None]
            if not known:
                undefined += 1
                if self.undefined == "skip":
                    continue
                known = [float(self.undefined == "one")] * len(self.tolerances_s)
            added[:, video] += torch.tensor(known, dtype=torch.float64)
            count[video] += 1
        self.video_sum += added.to(self.video_sum)
        self.video_count += count.to(self.video_count)
        self.undefined_count += undefined

    def update_from_audio(
        self,
        driving: tuple[Tensor, int],
        inferred: tuple[Tensor, int],
        video_index: Sequence[int] | Tensor,
        valid: Sequence[bool] | Tensor | None = None,
        duration_s: float | None = None,
        detector: OnsetDetector | None = None,
    ) -> None:
        """Adds a batch of clips from their waveforms; prefer :meth:`update` where onsets are compared repeatedly.

        Args:
            driving: conditioning sound ``[B, S]`` and its sample rate.
            inferred: inferred sound ``[B, S']`` and its sample rate.
            video_index: the recording each clip was cut from.
            valid: False for clips that do not count.
            duration_s: length of the video, or None where the sounds alone decide.
            detector: None takes the standard one.
        """
        # whatever all tracks cover: onsets beyond it could not be matched
        common = min(duration_s or math.inf, *(audio.shape[-1] / rate for audio, rate in (driving, inferred)))
        driving_onsets, inferred_onsets = (
            cyclesync_onsets(audio, rate, common, detector) for audio, rate in (driving, inferred)
        )
        self.update(driving_onsets, inferred_onsets, video_index, valid)

    def compute(self) -> dict[str, Tensor]:
        """Flat scalars, x100 where they are scores.

        Returns:
            ``value``, ``low`` and ``high`` (ends of its interval), ``sem``, ``sd`` at the headline tolerance;
            ``at_<tolerance>``, ``low_at_<tolerance>`` and ``high_at_<tolerance>`` for every tolerance; ``n_clips``,
            ``n_videos``, ``n_undefined``.
            NaN where no clip (value) or fewer than two recordings (spread) were seen.
        """
        mean, sd, sem = mean_over_recordings(self.video_sum, self.video_count)
        low, high = interval_of_mean(100.0 * self.video_sum, self.video_count)
        named = {"value": mean[0], "low": low[0], "high": high[0], "sem": sem[0], "sd": sd[0]}
        for tolerance, *at in zip(self.tolerances_s, mean, low, high, strict=True):
            named |= zip((f"{end}at_{tolerance:.4g}" for end in ("", "low_", "high_")), at, strict=True)
        named |= {"n_clips": self.video_count.sum(), "n_videos": (self.video_count > 0).sum()}
        return named | {"n_undefined": self.undefined_count}

    def result(self) -> MetricResult:
        """The row of ``results.json``; synchronises, so every rank has to call it.

        With one recording there is no spread to estimate and the interval is NaN to NaN.
        """
        got = {name: value.item() for name, value in self.compute().items()}
        others = {
            at: {"value": got[f"at_{at}"], "ci95": [got[f"low_at_{at}"], got[f"high_at_{at}"]]}
            for at in (f"{tolerance:.4g}" for tolerance in self.tolerances_s)
        }
        return MetricResult(
            value=got["value"],
            ci95=(got["low"], got["high"]),
            n=int(got["n_videos"]),
            details={
                "tolerance_s": self.tolerances_s[0],
                "sem": got["sem"],
                "n_clips": int(got["n_clips"]),
                "n_videos": int(got["n_videos"]),
                "n_undefined": int(got["n_undefined"]),
                "tolerances": others,
            },
        )
