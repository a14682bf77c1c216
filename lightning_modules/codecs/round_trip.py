"""How well held-out clips come back from a codec in training."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import lightning as L
import numpy as np
import torch
from torch import Tensor

from callbacks.evaluation import gathered, logged_scalars
from callbacks.judge import each_once
from components.contracts import ClipBatch, Generation, MetricResult
from components.metrics.bootstrap import bootstrap_interval
from components.metrics.truth.pictures import psnr_scores

PSNR_NAMES = ("psnr", "psnr_low", "psnr_high", "psnr_moving", "psnr_moving_low", "psnr_moving_high")
"""What `log_round_trips` logs."""


@dataclass(frozen=True)
class RoundTrip:
    """What validation keeps of a clip: PSNR in dB of all pixels, and of those that move (None where none does)."""

    id: str
    video_id: str
    psnr: float | None
    psnr_moving: float | None


def counted(batch: ClipBatch) -> Tensor:
    """Bool ``[B]``: clips that are not repeated to even out ranks."""
    return torch.ones(len(batch), dtype=torch.bool, device=batch.video.device) if batch.valid is None else batch.valid


def round_trips(batch: ClipBatch, decoded: Tensor, real: Tensor) -> tuple[Generation, list[RoundTrip]]:
    """The clips for callbacks that judge or show videos, and the scores of those that count.

    Args:
        batch: the clips.
        decoded: ``[B, T, 3, H, W]`` in [-1, 1], as the codec gives them back.
        real: the same as they went in.
    """
    made, true = (video.add(1).div(2) for video in (decoded, real))
    kept = [
        RoundTrip(batch.ids[row], batch.video_ids[row], **psnr_scores(made[row], true[row], true[row, 0]))
        for row in counted(batch).nonzero().flatten().tolist()
    ]
    return Generation(made, batch.fps, batch.audio, batch.sample_rate, batch, valid=batch.valid), kept


def log_round_trips(module: L.LightningModule, held_out: list[RoundTrip]) -> None:
    """Logs the mean over recordings of all ranks, with 95 % intervals."""
    clips = each_once(gathered(module.trainer, held_out))
    for name in ("psnr", "psnr_moving"):
        by_recording: dict[str, list[float]] = {}
        for clip in clips:
            # a clip in which nothing moves says nothing of what does
            if (value := getattr(clip, name)) is not None:
                by_recording.setdefault(clip.video_id, []).append(value)
        means = [fmean(values) for values in by_recording.values()]
        if means:
            (low,), (high,) = bootstrap_interval(np.array([means]))
            scalars = logged_scalars({name: MetricResult(fmean(means), (low, high), len(means))})
            module.log(name, scalars.pop(name), prog_bar=True)
            module.log_dict(scalars)
