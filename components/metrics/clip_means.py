"""Means of scores over a set of clips, with intervals over recordings: the value of every metric that scores clips.

Clips of one recording are averaged first because they are not independent. Reference: metrics specification, section
11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from components.contracts import MetricResult
from components.errors import InputError
from components.metrics.recording_means import interval_of_mean, mean_and_spread
from components.metrics.scorers import ClipScores


class ClipMeans(Metric):
    """Means of what a `ClipScorer` says of a set of clips; sums only, exact under any sharding.

    A clip without a score takes no part in the mean and is counted: under its problem, where it has one.

    Args:
        names: the metrics; a clip may have a score in some of them only.
        num_videos: how many recordings the set holds; ``video_index`` runs from 0 to ``num_videos - 1``.
        problems: the words that clips without scores may carry.
        kwargs: handed to :class:`torchmetrics.Metric`.

    Raises:
        InputError: for an empty set.

    Example:
        >>> metric = ClipMeans(["wer"], num_videos=2, problems=["silent"])
        >>> metric.update([ClipScores({"wer": 0.25}), ClipScores(problem="silent")], video_index=[0, 1])
        >>> got = metric.compute()
        >>> got["wer"].item(), got["wer_n_clips"].item(), got["n_silent"].item()
        (0.25, 1, 1)
    """

    higher_is_better = None  # each score has a direction of its own
    is_differentiable = False
    full_state_update = False

    video_sum: Tensor
    video_count: Tensor
    problem_count: Tensor

    def __init__(self, names: Sequence[str], num_videos: int, problems: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_videos < 1:
            raise InputError(f"num_videos is {num_videos}; ClipMeans needs at least one recording")
        self.names = tuple(names)
        self.problems = tuple(problems)
        # float64: sums of scores come out the same whatever the order of the shards, to far below what is printed
        self.add_state("video_sum", torch.zeros(len(self.names), num_videos, dtype=torch.float64), "sum")
        self.add_state("video_count", torch.zeros(len(self.names), num_videos, dtype=torch.int64), "sum")
        self.add_state("problem_count", torch.zeros(len(self.problems), dtype=torch.int64), "sum")

    def update(
        self,
        scores: Sequence[ClipScores],
        video_index: Sequence[int] | Tensor,
        valid: Sequence[bool] | Tensor | None = None,
    ) -> None:
        """Adds a batch of clips.

        Args:
            scores: what the scorer says of each clip.
            video_index: the recording each clip was cut from.
            valid: False for clips that only even out the batches of several ranks; they do not count.

        Raises:
            InputError: if the numbers of clips differ, an index is outside ``[0, num_videos)``, or a clip has a metric
                or a problem that this metric was not told of.
        """
        index = [int(video) for video in video_index]
        counted = [True] * len(scores) if valid is None else [bool(flag) for flag in valid]
        if not len(scores) == len(index) == len(counted):
            raise InputError(f"{len(scores)} clips came with {len(index)} video indices and {len(counted)} valid flags")
        num_videos = self.video_count.shape[1]
        added, count = torch.zeros_like(self.video_sum), torch.zeros_like(self.video_count)
        problems = torch.zeros_like(self.problem_count)
        for score, video, counts in zip(scores, index, counted, strict=True):
            if not 0 <= video < num_videos:
                raise InputError(f"video index {video} is outside 0..{num_videos - 1}, the recordings of this metric")
            if unknown := sorted(score.values.keys() - set(self.names)):
                raise InputError(f"a clip has a score {unknown[0]}; this metric has {', '.join(self.names)}")
            if score.problem is not None and score.problem not in self.problems:
                raise InputError(f"a clip has the problem {score.problem}; this metric was told of {self.problems}")
            if not counts:
                continue
            for name, value in score.values.items():
                added[self.names.index(name), video] += value
                count[self.names.index(name), video] += 1
            if score.problem is not None:
                problems[self.problems.index(score.problem)] += 1
        self.video_sum += added
        self.video_count += count
        self.problem_count += problems

    def compute(self) -> dict[str, Tensor]:
        """Flat scalars.

        Returns:
            each name, with ``_low`` and ``_high`` (ends of its interval), ``_sem``, ``_n_clips`` and ``_n_videos`` that
            were scored; ``n_<problem>`` clips that were not. NaN where no clip (mean) or fewer than two recordings
            (spread) were scored.
        """
        named: dict[str, Tensor] = {}
        for name, total, count in zip(self.names, self.video_sum, self.video_count, strict=True):
            mean, _, sem = mean_and_spread(total[None], count)
            low, high = interval_of_mean(total[None], count)
            numbers = {"": mean[0], "_low": low[0], "_high": high[0], "_sem": sem[0]}
            counts = {"_n_clips": count.sum(), "_n_videos": (count > 0).sum()}
            named |= {f"{name}{end}": value for end, value in {**numbers, **counts}.items()}
        return named | {f"n_{problem}": count for problem, count in zip(self.problems, self.problem_count, strict=True)}

    def results(self) -> dict[str, MetricResult]:
        """A row of ``results.json`` for every metric that any clip has; synchronises, so every rank has to call it.

        With one recording there is no spread to estimate and the intervals are NaN to NaN.
        """
        got = {name: value.item() for name, value in self.compute().items()}
        problems = {f"n_{problem}": int(got[f"n_{problem}"]) for problem in self.problems}
        return {
            name: MetricResult(
                value=got[name],
                ci95=(got[f"{name}_low"], got[f"{name}_high"]),
                n=int(got[f"{name}_n_videos"]),
                details={
                    "sem": got[f"{name}_sem"],
                    "n_clips": int(got[f"{name}_n_clips"]),
                    "n_videos": int(got[f"{name}_n_videos"]),
                    **problems,
                },
            )
            for name in self.names
            if got[f"{name}_n_clips"]
        }
