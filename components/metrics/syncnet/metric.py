"""Sync-C and Sync-D over a set of clips, with intervals over recordings.

Sync-C (also LSE-C) is SyncNet's confidence, higher is better; Sync-D (LSE-D) its distance, lower is better. Reference:
metrics specification, sections 3 and 11. Clips of one recording are averaged first because they are not independent.
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
from components.metrics.syncnet.scorer import SyncScore

SCORES = ("sync_c", "sync_d")


class SyncConfidence(Metric):
    """Means of Sync-C and Sync-D over a set of recordings; sums only, exact under any sharding.

    Clips without a face and clips too short to be scored take no part in the means and are counted: a model that hides
    faces must not win unseen.

    Args:
        num_videos: how many recordings the set holds; ``video_index`` runs from 0 to ``num_videos - 1``.
        kwargs: handed to :class:`torchmetrics.Metric`.

    Raises:
        InputError: for an empty set.

    Example:
        >>> metric = SyncConfidence(num_videos=2)
        >>> nan = float("nan")
        >>> metric.update([SyncScore(7.0, 6.5, 0.0), SyncScore(nan, nan, nan, "no_face")], video_index=[0, 1])
        >>> got = metric.compute()
        >>> got["sync_c"].item(), got["sync_d"].item(), got["n_no_face"].item()
        (7.0, 6.5, 1)
    """

    higher_is_better = None  # neither: Sync-C and Sync-D point in opposite directions
    is_differentiable = False
    full_state_update = False

    video_sum: Tensor
    video_count: Tensor
    no_face: Tensor
    too_short: Tensor

    def __init__(self, num_videos: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_videos < 1:
            raise InputError(f"num_videos is {num_videos}; SyncConfidence needs at least one recording")
        # float64: sums of scores come out the same whatever the order of the shards, to far below what is printed
        self.add_state("video_sum", torch.zeros(len(SCORES), num_videos, dtype=torch.float64), "sum")
        self.add_state("video_count", torch.zeros(num_videos, dtype=torch.int64), "sum")
        self.add_state("no_face", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("too_short", torch.zeros((), dtype=torch.int64), "sum")

    def update(
        self,
        scores: Sequence[SyncScore],
        video_index: Sequence[int] | Tensor,
        valid: Sequence[bool] | Tensor | None = None,
    ) -> None:
        """Adds a batch of clips.

        Args:
            scores: what `SyncNetScorer.score` says of each clip.
            video_index: the recording each clip was cut from.
            valid: False for clips that only even out the batches of several ranks; they do not count.

        Raises:
            InputError: if the numbers of clips differ or an index is outside ``[0, num_videos)``.
        """
        index = [int(video) for video in video_index]
        counted = [True] * len(scores) if valid is None else [bool(flag) for flag in valid]
        if not len(scores) == len(index) == len(counted):
            raise InputError(f"{len(scores)} clips came with {len(index)} video indices and {len(counted)} valid flags")
        num_videos = len(self.video_count)
        added = torch.zeros(self.video_sum.shape, dtype=torch.float64)
        count = torch.zeros(num_videos, dtype=torch.int64)
        for score, video, counts in zip(scores, index, counted, strict=True):
            if not 0 <= video < num_videos:
                raise InputError(f"video index {video} is outside 0..{num_videos - 1}, the recordings of this metric")
            if not counts:
                continue
            if score.problem is None:
                added[:, video] += torch.tensor([score.sync_c, score.sync_d], dtype=torch.float64)
                count[video] += 1
            elif score.problem == "no_face":
                self.no_face += 1
            else:
                self.too_short += 1
        self.video_sum += added.to(self.video_sum)
        self.video_count += count.to(self.video_count)

    def compute(self) -> dict[str, Tensor]:
        """Flat scalars.

        Returns:
            ``sync_c`` and ``sync_d``, each with ``_low`` and ``_high`` (ends of its interval) and ``_sem``; ``n_clips``
            and ``n_videos`` that were scored; ``n_no_face`` and ``n_too_short`` clips that were not. NaN where no clip
            (mean) or fewer than two recordings (spread) were scored.
        """
        mean, _, sem = mean_and_spread(self.video_sum, self.video_count)
        ends = interval_of_mean(self.video_sum, self.video_count)
        named: dict[str, Tensor] = {}
        for name, *found in zip(SCORES, mean, *ends, sem, strict=True):
            named |= zip((name, f"{name}_low", f"{name}_high", f"{name}_sem"), found, strict=True)
        named |= {"n_clips": self.video_count.sum(), "n_videos": (self.video_count > 0).sum()}
        return named | {"n_no_face": self.no_face, "n_too_short": self.too_short}

    def results(self) -> dict[str, MetricResult]:
        """The rows ``sync_c`` and ``sync_d`` of ``results.json``; synchronises, so every rank has to call it.

        With one recording there is no spread to estimate and the intervals are NaN to NaN.
        """
        got = {name: value.item() for name, value in self.compute().items()}
        counts = {name: int(value) for name, value in got.items() if name.startswith("n_")}
        return {
            name: MetricResult(
                value=got[name],
                ci95=(got[f"{name}_low"], got[f"{name}_high"]),
                n=counts["n_videos"],
                details={"sem": got[f"{name}_sem"], **counts},
            )
            for name in SCORES
        }
