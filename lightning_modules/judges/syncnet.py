"""Training of a SyncNet on talking clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from callbacks.evaluation import entry_name, gathered
from callbacks.judge import each_once, mismatched, recording_indices
from components.contracts import ClipBatch, MetricResult, clip_generator
from components.errors import InputError
from components.metrics.clip_means import ClipMeans
from components.metrics.syncnet.clip_scores import PROBLEMS, SCORES, clip_scores
from components.metrics.syncnet.input import at_syncnet_fps, network_pictures
from components.metrics.syncnet.model import WINDOW_FRAMES, cepstrum_windows
from components.metrics.syncnet.scorer import LipTrack, SyncNetScorer, sound_cepstra
from components.objectives.sync_contrastive import SyncContrastiveLoss
from components.v2a.degrade import Degrade
from lightning_modules.base import batch_name, scheduled


class SyncNetModule(L.LightningModule):
    """Teaches a `SyncNet` which sound belongs to which lips; validation scores held-out clips with it.

    Training pictures have to be cropped faces. ``sync_c_real`` and ``sync_d_real`` are those of held-out clips with
    their own sound, ``_chance`` with the sound of the next recording. The final figure of a model belongs to clips of
    yet another seed.

    Args:
        scorer: holds the network that is trained and says how validation scores clips with it.
        loss: what is minimised; None takes the standard contrastive loss.
        degrade: what is done to training clips so that slightly blurred and noisy videos are judged as well; None
            trains on clean clips.
        optimizer: builds the optimizer.
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        noise_seed: seed of what ``degrade`` draws.
    """

    logged_names = (
        "train/loss",
        "sync_c_real",
        "sync_d_real",
        "sync_c_chance",
        "sync_d_chance",
    )

    def __init__(
        self,
        scorer: SyncNetScorer,
        loss: SyncContrastiveLoss | None = None,
        degrade: Degrade | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.scorer = scorer
        self.loss = loss or SyncContrastiveLoss()
        self.degrade = degrade
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.noise_seed = noise_seed
        self._held_out: list[_HeldOut] = []
        self.results: dict[str, MetricResult] = {}
        self.clip_rows: dict[str, dict[str, object]] = {}

    def configure_optimizers(self) -> Any:
        """The optimizer and, if asked for, a schedule per step."""
        return scheduled(self, self.optimizer(self.scorer.net.parameters()), self.lr_scheduler)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """The contrastive loss of the batch."""
        net = self.scorer.net
        cepstra, num_windows = sound_cepstra(batch.audio, batch.sample_rate)
        video = at_syncnet_fps(batch.video, batch.fps).float() / 255
        num_windows = min(num_windows, video.shape[1] - WINDOW_FRAMES)
        if num_windows < 1:
            raise InputError(
                f"training clips of {video.shape[1]} frames at 25 fps hold no window of picture and sound; raise "
                "clip.num_frames"
            )
        if self.degrade is not None:
            place = batch_name(batch, batch_idx, self.global_rank)
            generator = clip_generator(f"syncnet-{place}", self.noise_seed)
            video = self.degrade(video, generator)
        # [B T, ...] at once, then [B, 3, T, size, size] as the lip tower wants it
        pictures = network_pictures(video.flatten(0, 1), net.image_size).unflatten(1, video.shape[:2]).transpose(0, 1)
        lips = net.embed_lips(pictures)[:, :num_windows]
        windows = torch.cat([cepstrum_windows(clip, num_windows) for clip in cepstra])
        sound = net.embed_sound(windows).unflatten(0, (len(batch), num_windows))
        loss: Tensor = self.loss(lips, sound)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Embeds held-out clips; they are judged together when all are there."""
        lips = self.scorer.lips(batch.video.float() / 255, batch.fps)
        sounds = self.scorer.sounds(batch.audio, batch.sample_rate)
        valid = [True] * len(batch) if batch.valid is None else batch.valid.tolist()
        for clip, video, tracks, sound, counts in zip(batch.ids, batch.video_ids, lips, sounds, valid, strict=True):
            if counts:
                # on the CPU: embeddings of a whole validation are kept
                self._held_out.append(_HeldOut(clip, video, [track.cpu() for track in tracks], sound.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs Sync-C and Sync-D of the held-out clips of all ranks and of mismatched pairs."""
        # each once: samplers repeat clips to even out ranks
        clips = each_once(gathered(self.trainer, self._held_out))
        self._held_out = []
        self.results = {}
        num_recordings, index = recording_indices(clips)
        for name, pairs in (("real", [(clip, clip) for clip in clips]), ("chance", mismatched(clips))):
            # every rank holds all clips here, so there is nothing left to synchronise
            metric = ClipMeans(SCORES, num_recordings, PROBLEMS, sync_on_compute=False)
            scores = [clip_scores(self.scorer.score(clip.lips, other.sound)) for clip, other in pairs]
            metric.update(scores, index[: len(pairs)])  # there is no other sound where all clips share a recording
            self.results |= {entry_name(score, name): result for score, result in metric.results().items()}
            found = metric.compute()  # NaN where no clip has a score: what is watched is logged always
            for score in SCORES:
                for end in ("", "_low", "_high"):
                    shown = score == "sync_c" and not end
                    self.log(f"{entry_name(score, name)}{end}", found[f"{score}{end}"], prog_bar=shown)
            counts = {key: found[f"{SCORES[0]}_{key}"] for key in ("n_clips", "n_videos")}
            counts |= {f"n_{problem}": found[f"n_{problem}"] for problem in PROBLEMS}
            self.log_dict({entry_name(key, name): value.float() for key, value in counts.items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the network for `SyncNet.from_pretrained`."""
        self.scorer.net.save_pretrained(folder)


@dataclass(frozen=True)
class _HeldOut:
    """What validation keeps of a clip: the faces and the sound, embedded."""

    id: str
    video_id: str
    lips: list[LipTrack]
    sound: Tensor
