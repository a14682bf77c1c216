"""What all data modules of clips share: loaders, one order over all ranks, exact resumption."""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import abstractmethod
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils.data import DataLoader, Sampler

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.cached_latents import CachedLatents
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.clip_groups import AnyClip, ClipBatches, ClipGroups, collate
from datamodules.reading.order import ConsumedSampler, EvaluationBatches, EvaluationSampler, rank_and_world_size
from datamodules.reading.overview import named, overview, recordings
from datamodules.reading.turns import TurnOrder

Split = Literal["train", "val", "test"]
SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}

_PATIENCE_S = 5.0
"""So long a start may look at the headers of a split's recordings."""
_log = logging.getLogger("avsync.data")


class OrderedDataModule(L.LightningDataModule):
    """Clips in an order that depends on the seed and on how many were consumed; a subclass says which clips.

    Where these are several groups (sets of a mixture, shapes), a batch and in training all ranks' batches of a step
    come from one of them: the groups take turns of ``samples_in_a_row`` samples (`TurnOrder`). How long a turn is
    stands in the checkpoint, so that a run goes on in the same order with another number of ranks.

    An epoch is one pass where the run counts epochs: with ``max_epochs``, or where validation comes at their end
    (Lightning's defaults). Bounded by ``max_steps`` and validated every so many batches (an integer
    ``val_check_interval`` and ``check_val_every_n_epoch: null``) a run is one endless epoch.

    Args:
        clip: what every clip looks like.
        batch_size: training clips per batch and rank.
        val_batch_size: evaluation clips per batch and rank.
        num_workers: loader processes per rank.
        seed: decides the order.
        samples_in_a_row: training samples of one group's turn, a multiple of all ranks' clips of a step; None takes
            just these.

    Raises:
        InputError: a number is too small.
    """

    def __init__(
        self,
        clip: ClipShape,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        seed: int,
        samples_in_a_row: int | None,
    ) -> None:
        super().__init__()
        self.clip = clip
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("samples_in_a_row", 1 if samples_in_a_row is None else samples_in_a_row, 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        self.batch_size, self.val_batch_size, self.num_workers = batch_size, val_batch_size, num_workers
        self.seed, self.samples_in_a_row = seed, samples_in_a_row
        self._groups: dict[Split, ClipGroups] = {}
        self._consumed_before = 0
        self._batches_before: int | None = None
        self._turn: int | None = samples_in_a_row

    @abstractmethod
    def groups(self, split: Split) -> ClipGroups:
        """The clips of a split, in groups of which each batch has one.

        Raises:
            InputError: a folder, list or file is missing or empty.
        """

    def setup(self, stage: str) -> None:
        """Reads the lists of the splits the stage needs."""
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self._groups:
                self._groups[split] = self.groups(split)
                if stage == "fit" and self.trainer is not None:
                    self._announce(split)

    def teardown(self, stage: str) -> None:
        """Says once more what had to be skipped."""
        del stage
        for split, groups in self._groups.items():
            for prefix, parts in groups.sets.items():
                if isinstance(parts[0], ClipDataset) and (skipped := parts[0].unusable.summary()) is not None:
                    _log.warning("%s: %s", named(split, prefix), skipped)

    def dataset(self, split: Split) -> ClipGroups:
        """The clips of a split that is set up."""
        return self._groups[split]

    def clip_names(self, split: Split) -> list[str]:
        """What the clips that an evaluation of a split shows are called; the split has to be set up."""
        return self._groups[split].shown_names()

    def train_dataloader(self) -> DataLoader[AnyClip]:
        """Loader of random clips that goes on, at every epoch, after the samples consumed so far."""
        groups = self._groups["train"]
        # what was consumed so far is the new beginning; batches count from here
        self._consumed_before = self.consumed_samples
        self._batches_before = self._batches_seen
        rank, world_size = rank_and_world_size(self.trainer)
        order = None
        if len(groups.parts) > 1:
            sizes, shares = [len(part) for part in groups.parts], groups.shares
            order = TurnOrder(sizes, shares, self.seed, self._samples_of_a_turn(world_size))
        sampler = ConsumedSampler(
            groups.samples_of_a_pass,
            self.seed,
            rank,
            world_size,
            start=lambda: self.consumed_samples,
            batch_size=self.batch_size,
            passes_end=self._counts_epochs,
            order=order,
        )
        if overfit := self._overfit_batches:
            batches = overfit if isinstance(overfit, int) else max(1, int(overfit * sampler.batches_of_a_pass))
            sampler.held = batches * world_size * self.batch_size
        return self._loader(groups, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[AnyClip]:
        """Fixed clips of the validation split."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[AnyClip]:
        """Fixed clips of the test split."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[AnyClip]:
        """Fixed clips of the test split."""
        return self._evaluation_loader("test")

    @property
    def consumed_samples(self) -> int:
        """Training samples consumed by all ranks since the very beginning."""
        if self._batches_before is None:
            return self._consumed_before
        batches = self._batches_seen - self._batches_before
        _, world_size = rank_and_world_size(self.trainer)
        return self._consumed_before + batches * self.batch_size * world_size

    def state_dict(self) -> dict[str, Any]:
        """The number of consumed samples, and how long turns are: all that the order depends on besides the seed."""
        turn = {} if self._turn is None else {"samples_in_a_row": self._turn}
        return {"consumed_samples": self.consumed_samples, **turn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after ``consumed_samples``, in turns as long as they were.

        Raises:
            InputError: turns were asked for that are not as long as before.
        """
        turn = state_dict.get("samples_in_a_row")
        if turn is not None:
            if self.samples_in_a_row not in (None, turn):
                raise InputError(
                    f"samples_in_a_row is {self.samples_in_a_row}, but the checkpoint's run takes {turn}, and another"
                    f" order would leave clips out and repeat others: set it to {turn} or null"
                )
            self._turn = int(turn)
        self._consumed_before = int(state_dict["consumed_samples"])
        self._batches_before = None

    @rank_zero_only
    def _announce(self, split: Split) -> None:
        sets = self._groups[split].sets
        for prefix, parts in sets.items():
            read = [part for part in parts if isinstance(part, ClipDataset)]
            encoded = sum(len(part) for part in parts if isinstance(part, CachedLatents))
            if read:
                # the first step does not wait longer where there are several sets
                rank_zero_info(overview(*read, patience_s=_PATIENCE_S / len(sets)).line(named(split, prefix)))
            else:
                rank_zero_info(f"{named(split, prefix)}: {recordings(encoded)}, encoded")

    def _samples_of_a_turn(self, world_size: int) -> int:
        of_a_step = self.batch_size * world_size
        if self._turn is None:
            self._turn = of_a_step
        if self._turn % self.batch_size:
            raise InputError(
                f"samples_in_a_row is {self._turn}, no multiple of batch_size, {self.batch_size}: a batch would have"
                f" clips of two groups; set {'batch_size' if self.samples_in_a_row is None else 'samples_in_a_row'}"
                " otherwise"
            )
        if self._turn % of_a_step:
            _log.warning(
                "samples_in_a_row is %d, no multiple of the %d clips of a step (batch_size times ranks): the ranks of"
                " a step work at different groups, some longer than others",
                self._turn,
                of_a_step,
            )
        return self._turn

    def _evaluation_loader(self, split: Split) -> DataLoader[AnyClip]:
        groups = self._groups[split]
        rank, world_size = rank_and_world_size(self.trainer)
        if len(groups.parts) == 1:
            sampler = EvaluationSampler(len(groups.shown[0]), rank, world_size)
            return self._loader(groups, sampler, self.val_batch_size)
        batches = EvaluationBatches(groups.shown, self.val_batch_size, rank, world_size)
        return self._loader(groups, batches, None)

    def _loader(self, groups: ClipGroups, sampler: Sampler[Any], batch_size: int | None) -> DataLoader[AnyClip]:
        # a sampler of whole batches, not a batch sampler, which Lightning would build anew for predictions
        return DataLoader(
            ClipBatches(groups) if batch_size is None else groups.only_part or groups,  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, shape=self.clip),
            persistent_workers=self.num_workers > 0,
            pin_memory=self._feeds_a_gpu,
            worker_init_fn=_leave_signals_to_the_run,
            # A loader draws its workers' seeds when it is iterated; from the global generator, a validation would
            # change the training that follows.
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def _feeds_a_gpu(self) -> bool:
        strategy = getattr(self.trainer, "strategy", None)
        return strategy is not None and strategy.root_device.type == "cuda"

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
