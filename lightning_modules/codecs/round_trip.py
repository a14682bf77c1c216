"""How well held-out clips come back from a codec in training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from callbacks.evaluation import gathered, logged_scalars
from callbacks.judge import each_once
from components.contracts import ClipBatch, Generation, MetricResult, Modality
from components.metrics.bootstrap import bootstrap_interval
from components.metrics.truth.pictures import psnr_scores
from lightning_modules.base import SeededModule

PSNR_NAMES = ("psnr", "psnr_low", "psnr_high", "psnr_moving", "psnr_moving_low", "psnr_moving_high")
"""What `RoundTripModule` logs in validation and test."""


@dataclass(frozen=True)
class RoundTrip:
    """What validation keeps of a clip: PSNR in dB of all pixels, and of those that move (None where none does)."""

    id: str
    video_id: str
    psnr: float | None
    psnr_moving: float | None


class RoundTripModule(SeededModule):
    """A codec in training, judged by how well it gives back held-out clips.

    Validation and test log ``psnr`` and ``psnr_moving`` in dB, and hand the clips to callbacks that judge or show
    videos. The figures of the last of them are its ``results``, those of each clip its ``clip_rows``.

    Args:
        noise_seed: seed of what training draws; None takes the experiment's ``seed_everything``, and 0 without one.
    """

    def __init__(self, noise_seed: int | None) -> None:
        super().__init__(noise_seed)
        self._held_out: list[RoundTrip] = []
        self.results: dict[str, MetricResult] = {}
        self.clip_rows: dict[str, dict[str, object]] = {}

    @staticmethod
    def needed_modalities(_model: Mapping[str, Any]) -> tuple[Modality, ...]:
        """Pictures alone."""
        return ("video",)

    @abstractmethod
    def round_trip(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """The clips as the codec gives them back, and as they went in: ``[B, T, 3, H, W]`` in [-1, 1]."""

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """The round trip of held-out clips, for callbacks that judge or show videos."""
        made, true = (video.add(1).div(2) for video in self.round_trip(batch))
        generation = Generation(made, batch.fps, batch.audio, batch.sample_rate, batch, valid=batch.valid)
        self._held_out += [
            RoundTrip(batch.ids[row], batch.video_ids[row], **psnr_scores(made[row], true[row], true[row, 0]))
            for row in generation.valid_mask().nonzero().flatten().tolist()
        ]
        return generation

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """As `validation_step`."""
        return self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the mean PSNR of all ranks' clips, over recordings and with 95 % intervals."""
        clips = each_once(gathered(self.trainer, self._held_out))
        self._held_out = []
        self.results = _means(clips)
        self.clip_rows = {clip.id: _row(clip) for clip in clips}
        scalars = logged_scalars(self.results)
        for name in self.results:
            self.log(name, scalars.pop(name), prog_bar=True)
        self.log_dict(scalars)

    def on_test_epoch_end(self) -> None:
        """As `on_validation_epoch_end`."""
        self.on_validation_epoch_end()


def _means(clips: Sequence[RoundTrip]) -> dict[str, MetricResult]:
    results = {}
    for name in ("psnr", "psnr_moving"):
        by_recording: dict[str, list[float]] = {}
        for clip in clips:
            # a clip in which nothing moves says nothing of what does
            if (value := getattr(clip, name)) is not None:
                by_recording.setdefault(clip.video_id, []).append(value)
        means = [fmean(values) for values in by_recording.values()]
        if means:
            (low,), (high,) = bootstrap_interval(np.array([means]))
            details = {"n_clips": sum(map(len, by_recording.values())), "n_videos": len(means)}
            results[name] = MetricResult(fmean(means), (low, high), len(means), details)
    return results


def _row(clip: RoundTrip) -> dict[str, object]:
    return {"video_id": clip.video_id, "scores": {"psnr": clip.psnr, "psnr_moving": clip.psnr_moving}}
