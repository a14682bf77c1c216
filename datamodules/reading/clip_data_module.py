"""What all data modules of recordings share: loaders, sharding over ranks, exact resumption."""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils.data import DataLoader, Sampler

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.sound_reader import MAX_MISSING_AUDIO_S
from datamodules.reading.clip_dataset import Clip, ClipDataset, collate_clips
from datamodules.reading.order import ConsumedSampler, EvaluationSampler, rank_and_world_size
from datamodules.reading.overview import overview
from datamodules.reading.records import ClipRecord

_log = logging.getLogger("avsync.data")
Split = Literal["train", "val", "test"]


class ClipDataModule(L.LightningDataModule):
    """Random clips for training and fixed clips for evaluation out of lists of recordings.

    An epoch is one pass over the training list where the run counts epochs: with ``max_epochs``, or where validation
    comes at their end (Lightning's defaults). Bounded by ``max_steps`` and validated every so many batches (an integer
    ``val_check_interval`` and ``check_val_every_n_epoch: null``) a run is one endless epoch. Which sample comes when
    depends on the seed and on how many samples were consumed, which is all the state a checkpoint holds; a run resumes
    exactly, also with another number of ranks. ``overfit_batches`` repeats the same clips under ever new noise.

    Args:
        clip: what every clip looks like; an experiment says it once, in its section ``clip``. None takes the set's own
            default: 121 frames of 384x640 at 24 fps with sound at 16 kHz. Where clips differ in length, a batch is cut
            to its shortest one, so ``val_batch_size`` 1 keeps every clip's own length in evaluation.
        batch_size: training clips per batch and rank.
        val_batch_size: evaluation clips per batch and rank.
        num_workers: loader processes per rank.
        clips_per_video: evaluation clips per recording, evenly spaced from its start to its end.
        single_clip: where the clip lies if ``clips_per_video`` is 1: "start" or "center".
        seed: decides order and place of the training clips.
        cache: keep recordings (at the clips' rate and size) in memory after their first use, in each loader process.
        max_val_clips: evaluate only this many clips, taken evenly over the split, or None for all.
        on_corrupt: "error" ends the run at a recording that cannot be used; "skip" reports it and goes on, and says at
            the end what was skipped.
        max_corrupt_fraction: share of the recordings that may be skipped.
        video_track: number of the track among each file's video tracks, from 0; None for the default, never a cover.
        audio_track: likewise among the audio tracks.
        max_missing_audio_s: so many seconds of a clip's sound may be missing; they are silent. More is a recording
            that cannot be used.
    """

    def __init__(
        self,
        clip: ClipShape | None = None,
        batch_size: int = 4,
        val_batch_size: int = 4,
        num_workers: int = 4,
        clips_per_video: int = 1,
        single_clip: Literal["start", "center"] = "center",
        seed: int = 0,
        cache: bool = False,
        max_val_clips: int | None = None,
        on_corrupt: Literal["error", "skip"] = "error",
        max_corrupt_fraction: float = 0.01,
        video_track: int | None = None,
        audio_track: int | None = None,
        max_missing_audio_s: float = MAX_MISSING_AUDIO_S,
    ) -> None:
        super().__init__()
        self.clip = clip or ClipShape()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("clips_per_video", clips_per_video, 1),
            ("seed", seed, 0),
            ("max_val_clips", 1 if max_val_clips is None else max_val_clips, 1),
            ("video_track", video_track or 0, 0),
            ("audio_track", audio_track or 0, 0),
            ("max_missing_audio_s", max_missing_audio_s, 0),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        self.batch_size, self.val_batch_size, self.num_workers = batch_size, val_batch_size, num_workers
        self.clips_per_video, self.single_clip = clips_per_video, single_clip
        self.seed, self.cache, self.max_val_clips = seed, cache, max_val_clips
        self.on_corrupt, self.max_corrupt_fraction = on_corrupt, max_corrupt_fraction
        self.video_track, self.audio_track = video_track, audio_track
        self.max_missing_audio_s = max_missing_audio_s
        self._datasets: dict[Split, ClipDataset] = {}
        self._consumed_before = 0
        self._batches_before: int | None = None

    @abstractmethod
    def records(self, split: Split) -> Sequence[ClipRecord]:
        """The recordings of a split.

        Raises:
            InputError: a folder, list or file is missing or empty.
        """

    def setup(self, stage: str) -> None:
        """Reads the lists of the splits the stage needs."""
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("test",),
        }
        for split in splits[stage]:
            if split not in self._datasets:
                self._datasets[split] = self._dataset(split)
                if stage == "fit" and self.trainer is not None:
                    self._announce(split)

    def teardown(self, stage: str) -> None:
        """Says once more what had to be skipped."""
        for split, dataset in self._datasets.items():
            if (skipped := dataset.unusable.summary()) is not None:
                _log.warning("%s: %s", split, skipped)

    def dataset(self, split: Split) -> ClipDataset:
        """The clips of a split that is set up."""
        return self._datasets[split]

    @rank_zero_only
    def _announce(self, split: Split) -> None:
        rank_zero_info(overview(self._datasets[split]).line(split))

    def train_dataloader(self) -> DataLoader[Clip]:
        """Loader of random clips that goes on, at every epoch, after the samples consumed so far."""
        dataset = self._datasets["train"]
        # what was consumed so far is the new beginning; batches count from here
        self._consumed_before = self.consumed_samples
        self._batches_before = self._batches_seen
        rank, world_size = rank_and_world_size(self.trainer)
        sampler = ConsumedSampler(
            len(dataset),
            self.seed,
            rank,
            world_size,
            start=lambda: self.consumed_samples,
            batch_size=self.batch_size,
            passes_end=self._counts_epochs,
        )
        if overfit := self._overfit_batches:
            batches = overfit if isinstance(overfit, int) else max(1, int(overfit * sampler.batches_of_a_pass))
            sampler.held = batches * world_size * self.batch_size
        return self._loader(dataset, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[Clip]:
        """Fixed clips of the validation split."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Clip]:
        """Fixed clips of the test split."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Clip]:
        """Fixed clips of the test split."""
        return self._evaluation_loader("test")

    @property
    def _counts_epochs(self) -> bool:
        """Whether anything in the run waits for an epoch's end; progress bars and schedules do not."""
        if self.trainer is None:
            return False
        at_the_end = isinstance(self.trainer.val_check_interval, float)
        by_epochs = at_the_end and self.trainer.check_val_every_n_epoch is not None
        of_a_pass = isinstance(self._overfit_batches, float) and self._overfit_batches > 0
        return self.trainer.max_epochs not in (None, -1) or by_epochs or of_a_pass

    @property
    def _overfit_batches(self) -> int | float:
        """The trainer's setting, a number of batches or a share of a pass; Lightning sets it without declaring it."""
        found: int | float = getattr(self.trainer, "overfit_batches", 0)
        return found

    @property
    def consumed_samples(self) -> int:
        """Training samples consumed by all ranks since the very beginning."""
        if self._batches_before is None:
            return self._consumed_before
        batches = self._batches_seen - self._batches_before
        _, world_size = rank_and_world_size(self.trainer)
        return self._consumed_before + batches * self.batch_size * world_size

    def state_dict(self) -> dict[str, Any]:
        """The number of consumed samples: all that the training order depends on besides the seed."""
        return {"consumed_samples": self.consumed_samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after ``consumed_samples``."""
        self._consumed_before = int(state_dict["consumed_samples"])
        self._batches_before = None

    def _dataset(self, split: Split) -> ClipDataset:
        records = self.records(split)
        if split != "train" and self.max_val_clips is not None:
            keep = -(-self.max_val_clips // self.clips_per_video)
            if keep < len(records):
                # evenly spread: lists are often sorted by class
                records = [records[i * len(records) // keep] for i in range(keep)]
        return self._dataset_class(split)(
            records,
            self.clip,
            "random" if split == "train" else "fixed",
            clips_per_video=self.clips_per_video,
            single_clip=self.single_clip,
            seed=self.seed,
            cache=self.cache,
            on_corrupt=self.on_corrupt,
            max_corrupt_fraction=self.max_corrupt_fraction,
            frame_step=self._frame_step,
            video_track=self.video_track,
            audio_track=self.audio_track,
            max_missing_audio_s=self.max_missing_audio_s,
        )

    def _dataset_class(self, split: Split) -> Callable[..., ClipDataset]:
        """What makes clips of a split's records; takes the arguments of ``ClipDataset``."""
        del split
        return ClipDataset

    def _evaluation_loader(self, split: Split) -> DataLoader[Clip]:
        dataset = self._datasets[split]
        length = len(dataset) if self.max_val_clips is None else min(len(dataset), self.max_val_clips)
        rank, world_size = rank_and_world_size(self.trainer)
        return self._loader(dataset, EvaluationSampler(length, rank, world_size), self.val_batch_size)

    def _loader(self, dataset: ClipDataset, sampler: Sampler[Any], batch_size: int) -> DataLoader[Clip]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate_clips, shape=self.clip),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            # A loader draws its workers' seeds when it is iterated; from the global generator, a validation would
            # change the training that follows.
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def _frame_step(self) -> int:
        """Frames by which clips may differ in length: the temporal factor of the video codec that will encode them.

        Where the model has no video codec, or there is none at all, Pyramid Flow's 8.
        """
        model = None if self.trainer is None else self.trainer.lightning_module
        return getattr(model, "frame_step", None) or 8

    @property
    def _batches_seen(self) -> int:
        """Training batches this rank has worked through, over all resumptions."""
        if self.trainer is None:
            return 0
        total = self.trainer.fit_loop.epoch_loop.batch_progress.total
        # "processed" counts the batch whose end is just announced (where checkpoints are written) but not one that
        # failed half way.
        return int(vars(total).get("processed", total.completed))


def _leave_signals_to_the_run(_worker: int) -> None:
    """A scheduler signals every process of a run; the run's own ends with a checkpoint and takes its workers along.

    A worker that died of the signal first would end the run with an error instead. From the run itself SIGTERM is
    obeyed, as it is how the run ends its workers.
    """
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
    run = os.getppid()

    def obey_the_run() -> None:
        while True:
            received = signal.sigwaitinfo(signals)
            if received.si_signo == signal.SIGTERM and received.si_pid == run:
                os._exit(0)

    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        # blocked in this thread and in all that it starts, so that the one that waits takes them
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(target=obey_the_run, daemon=True).start()
