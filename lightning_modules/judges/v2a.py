"""Training of the light video-to-audio model on real pairs of picture and sound.

Target curves for learning onset times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from callbacks.evaluation import entry_name, gathered, logged_scalars
from callbacks.judge import each_once, mismatched, recording_indices
from components.contracts import ClipBatch, MetricResult, clip_generator
from components.errors import InputError
from components.metrics.cyclesync.metric import CycleSync, common_duration_s, cyclesync_onsets
from components.metrics.cyclesync.onsets import OnsetDetector
from components.v2a.bursts import BURST_DELAY_S, render_bursts
from components.v2a.degrade import Degrade
from components.v2a.disturbances import NonEvents
from components.v2a.onset_v2a import OnsetV2A
from components.weights.pretrained import WEIGHTS_FILE, sha256_of
from lightning_modules.base import batch_name, scheduled

Targets = Literal["detected", "true"]


class V2AModule(L.LightningModule):
    """Trains an `OnsetV2A` to hear real clips; validation is CycleSync of held-out real clips.

    Every validation first sets the model's threshold and lag on the held-out clips (two numbers), then scores them.
    The final figure of a model belongs to clips of yet another seed.

    Args:
        v2a: the model.
        targets: learn the onsets the detector finds in the clip's sound, or the true ones where the data know them.
        detector: finds onsets for targets and validation; None takes the standard one. A gate keeps the onsets out
            that a bare noise floor has after peak normalisation.
        degrade: what is done to training clips so that slightly blurred and noisy videos are heard as well; None
            trains on clean clips.
        non_events: what flashes in training clips, still ones and others, without an onset; None leaves it out.
        still_fraction: share of training clips that are frozen at one frame and have no onset.
        sigma_s: standard deviation of the Gaussian a target onset becomes.
        pos_weight: weight of target onsets in the binary cross-entropy.
        optimizer: builds the optimizer.
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        tolerance_s: tolerance of the validation's headline score.
        export_dir: folder `OnsetV2A.from_pretrained` reads, written at the end of fit; None writes nothing.
        noise_seed: seed of everything random in training.
    """

    logged_names = (
        "train/loss",
        "cyclesync_real*",
        "cyclesync_chance*",
    )

    def __init__(
        self,
        v2a: OnsetV2A,
        targets: Targets = "detected",
        detector: OnsetDetector | None = None,
        degrade: Degrade | None = None,
        non_events: NonEvents | None = None,
        still_fraction: float = 0.1,
        sigma_s: float = 0.012,
        pos_weight: float = 4.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        tolerance_s: float = 0.05,
        export_dir: str | None = None,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        if targets not in get_args(Targets):
            raise InputError(f"targets is '{targets}'; use one of {', '.join(get_args(Targets))}")
        if not 0 <= still_fraction < 1:
            raise InputError(f"still_fraction is {still_fraction}; it must be at least 0 and below 1")
        self.v2a = v2a
        self.targets = targets
        self.detector = detector or OnsetDetector()
        self.degrade = degrade
        self.non_events = non_events
        self.still_fraction = still_fraction
        self.sigma_s = sigma_s
        self.pos_weight = pos_weight
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.tolerance_s = tolerance_s
        self.export_dir = export_dir
        self.noise_seed = noise_seed
        self._held_out: list[_HeldOut] = []
        self.results: dict[str, MetricResult] = {}
        self.clip_rows: dict[str, dict[str, object]] = {}

    def configure_optimizers(self) -> Any:
        """The optimizer and, if asked for, a schedule per step."""
        return scheduled(self, self.optimizer(self.v2a.parameters()), self.lr_scheduler)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Binary cross-entropy of the onset curve."""
        place = batch_name(batch, batch_idx, self.global_rank)
        generator = clip_generator(f"v2a-{place}", self.noise_seed)
        video = batch.video.float() / 255
        onsets = self._targets(batch)
        still = torch.rand(len(batch), generator=generator) < self.still_fraction
        frozen = still.to(video.device)[:, None, None, None, None]
        # a still clip is silent: pictures alone must not tell when something sounds
        video = torch.where(frozen, video[:, :1], video)
        # behind the freezing, so that a still picture flickers and flashes too, and is silent all the same
        if self.degrade is not None:
            video = self.degrade(video, generator)
        if self.non_events is not None:
            video = self.non_events(video, generator)
        onsets = [[] if is_still else times for times, is_still in zip(onsets, still.tolist(), strict=True)]
        logits = self.v2a.network(self.v2a.working_frames(video, batch.fps))
        wanted = onset_targets(onsets, logits.shape[1], self.v2a.rate_hz, self.sigma_s).to(logits)
        weight = logits.new_tensor(self.pos_weight)
        loss = binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Keeps the onset curves of held-out real clips; they are judged together when all are there."""
        curves = self.v2a.curve(batch.video.float() / 255, batch.fps).cpu()
        duration_s = common_duration_s(batch.video.shape[1], batch.fps, (batch.audio, batch.sample_rate))
        sound_onsets = cyclesync_onsets(batch.audio, batch.sample_rate, duration_s, self.detector)
        valid = [True] * len(batch) if batch.valid is None else batch.valid.tolist()
        rows = zip(batch.ids, batch.video_ids, curves, sound_onsets, self._targets(batch), valid, strict=True)
        self._held_out += [
            _HeldOut(clip, video, duration_s, curve, onsets, wanted)
            for clip, video, curve, onsets, wanted, counts in rows
            if counts
        ]

    def on_validation_epoch_end(self) -> None:
        """Calibrates on the held-out clips of all ranks and logs their CycleSync and that of mismatched pairs."""
        clips = each_once(gathered(self.trainer, self._held_out))
        self._held_out, self.results = [], {}
        self.v2a.calibrate([clip.curve for clip in clips], [clip.wanted for clip in clips])
        inferred = {clip.id: self._inferred(clip) for clip in clips}
        num_recordings, index = recording_indices(clips)
        for name, pairs in (("real", [(clip, clip) for clip in clips]), ("chance", mismatched(clips))):
            # every rank holds all clips here, so there is nothing left to synchronise
            metric = CycleSync(num_recordings, self.tolerance_s, (1 / 24, 0.1), sync_on_compute=False)
            # there is no other sound where all clips share a recording: NaN, as what is watched is logged always
            metric.update(
                [other.sound_onsets for _, other in pairs],
                [inferred[clip.id] for clip, _ in pairs],
                index[: len(pairs)],
            )
            entry = entry_name("cyclesync", name)
            result = metric.result()
            if pairs:
                self.results[entry] = result
            scores = logged_scalars({entry: result})
            self.log(entry, scores.pop(entry), prog_bar=True)
            at = {f"{entry}_{key}": score.item() for key, score in metric.compute().items() if key.startswith("at_")}
            self.log_dict(scores | at)

    def on_fit_end(self) -> None:
        """Writes the trained and calibrated model."""
        if self.export_dir is None or not self.trainer.is_global_zero:
            return
        self.v2a.save_pretrained(self.export_dir)
        file = Path(self.export_dir) / WEIGHTS_FILE
        rank_zero_info(f"wrote {file} (sha256 {sha256_of(file)})")

    def _targets(self, batch: ClipBatch) -> list[list[float]]:
        """Onset times to learn, one list of seconds per clip."""
        if self.targets == "true":
            if batch.onsets is None:
                raise InputError("targets is 'true' but the data set knows no true onsets; use targets: detected")
            return [list(times) for times in batch.onsets]
        found = self.detector(batch.audio, batch.sample_rate)
        # the model's bursts are reported late by the same detector: aim earlier, so that both reports coincide
        return [[time - BURST_DELAY_S for time in times] for times in found]

    def _inferred(self, clip: _HeldOut) -> list[float]:
        """Onsets of the sound the model makes of a clip."""
        onsets = self.v2a.onsets([clip.curve])
        rate = self.v2a.sample_rate
        sound = render_bursts(onsets, round(clip.duration_s * rate), rate, [clip_generator(clip.id, self.noise_seed)])
        # through the same detector as the real sound, whose delay then cancels
        return self.detector(sound, rate, clip.duration_s)[0]


@dataclass(frozen=True)
class _HeldOut:
    """What validation keeps of a clip: the model's curve ``[N]``, the onsets of its sound and those to be found."""

    id: str
    video_id: str
    duration_s: float
    curve: Tensor
    sound_onsets: list[float]
    wanted: list[float]


def onset_targets(onsets: Sequence[Sequence[float]], num_values: int, rate_hz: float, sigma_s: float) -> Tensor:
    """Curves with a Gaussian bump of height 1 at each onset (the highest bump counts where two overlap).

    Args:
        onsets: B lists of seconds.
        num_values: N, length of the curves.
        rate_hz: values per second; value n stands for ``n / rate_hz``.
        sigma_s: standard deviation of a bump.

    Returns:
        float32 ``[B, N]`` in [0, 1].
    """
    times = torch.arange(num_values) / rate_hz
    curves = torch.zeros(len(onsets), num_values)
    for curve, row in zip(curves, onsets, strict=True):
        if len(row):
            distance = times[None] - torch.as_tensor(row)[:, None]
            curve.copy_(torch.exp(-0.5 * (distance / sigma_s).square()).amax(dim=0))
    return curves
