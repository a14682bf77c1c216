"""Ends a run that is told to stop with one checkpoint, between two batches, on all processes together."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from callbacks.run_record import run_folder
from components.errors import InputError

STOPPED_STATUS = 75
"""Exit status of a stopped run: "try again later", as schedulers understand it (``EX_TEMPFAIL``)."""

STOPPED_CHECKPOINT = "stopped.ckpt"
"""What a stopped run goes on from."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class RunStopped(BaseException):
    """The run was told to stop and has written its checkpoint.

    Args:
        status: what the process is to exit with.
    """

    def __init__(self, status: int = STOPPED_STATUS) -> None:
        super().__init__(status)
        self.status = status


class GracefulStop(Callback):
    """On SIGTERM, SIGINT or SIGUSR1 to any process writes ``<run>/checkpoints/stopped.ckpt`` and ends the run.

    The batch in progress, of training or validation, is finished first; with gradient accumulation, the step, also
    where a validation comes in its middle. A signal in the last batch of an epoch is heard before the next one. ``fit``
    with that checkpoint as ``--ckpt_path`` goes on as if nothing had happened: a validation that was due or broken off
    comes first (``FinishingFitLoop``). A run whose last step is done, and that has nothing to validate, just ends. A
    second SIGINT ends the run at once, without a checkpoint.

    Raises:
        RunStopped: on every rank, once the checkpoint is written.
        InputError: on every rank, if the disk has refused it.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._has_stepped = False
        self._previous: dict[signal.Signals, Any] = {}
        self._group: dist.ProcessGroup | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for signals from now on."""
        self._signalled = self._has_stepped = False
        if trainer.world_size > 1 and self._group is None:
            # Ranks ask each other after every step; on the CPU that does not make them wait for their devices.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            # handlers can be set in the main thread alone
            self._previous = {one: signal.signal(one, self._note) for one in _SIGNALS}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops between two epochs: where each is a single step, nowhere else is between two steps."""
        # an epoch's last batch ends a step, however few batches that has
        if batch_idx == 0 and self._has_stepped and self._any_signalled():
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops if any rank was told to, between two steps that follow each other.

        A step behind which a validation is due stops as that begins, so that its checkpoints are written before; the
        last one has nothing left to stop.
        """
        self._has_stepped = True
        # between two optimizer steps: accumulated gradients are in no checkpoint
        if not _accumulates(trainer) and not _validates_or_ends(trainer) and self._any_signalled():
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops before a validation."""
        if _may_stop_in_validation(trainer) and self._any_signalled():
            self._stop(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stops in the middle of a validation, which may take longer than a scheduler waits."""
        if _may_stop_in_validation(trainer) and self._any_signalled():
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> NoReturn:
        folder = run_folder(trainer)
        if folder is not None:
            file = folder / "checkpoints" / STOPPED_CHECKPOINT
            self._wait_for_writers(trainer)  # what went wrong with the one before ends all ranks, not one alone
            trainer.save_checkpoint(file)
            # one that is written in the background: from now on another signal would end the process before it is whole
            self._wait_for_writers(trainer)
            rank_zero_info(f"stopped after step {trainer.global_step}; go on with --ckpt_path {file}")
        raise RunStopped(0 if _is_child(trainer) else STOPPED_STATUS)

    def _wait_for_writers(self, trainer: Trainer) -> None:
        """On all ranks until none writes a checkpoint any more: where one is gone, launchers kill the others.

        Raises:
            InputError: if the disk has refused one, on every rank.
        """
        error: Exception | None = None
        try:
            trainer.strategy.checkpoint_io.teardown()
        except Exception as raised:
            error = raised
        said = [None if error is None else str(error)]
        if self._group is not None:
            said *= trainer.world_size
            dist.all_gather_object(said, said[0], group=self._group)
        if error is not None:
            raise error
        if (of_another := next(filter(None, said), None)) is not None:
            raise InputError(of_another)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves signals to whoever had them."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves signals to whoever had them."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            self._restore()
            raise KeyboardInterrupt
        self._signalled = True

    def _any_signalled(self) -> bool:
        if self._group is None:
            return self._signalled
        signalled = torch.tensor(int(self._signalled))
        dist.all_reduce(signalled, dist.ReduceOp.MAX, group=self._group)
        return bool(signalled)

    def _restore(self) -> None:
        for one, previous in self._previous.items():
            signal.signal(one, signal.SIG_DFL if previous is None else previous)
        self._previous = {}


def _accumulates(trainer: Trainer) -> bool:
    """Whether the step's gradients wait for more batches; only Lightning's loop knows all of the reasons."""
    return trainer.fit_loop._should_accumulate()


def _validates_or_ends(trainer: Trainer) -> bool:
    """Whether something else than another step comes after this one; again only Lightning's loop knows."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return loop._is_training_done or loop._should_check_val_fx(fetcher)


def _may_stop_in_validation(trainer: Trainer) -> bool:
    in_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    return in_training and not _accumulates(trainer)


def _is_child(trainer: Trainer) -> bool:
    """Whether this process was started by rank 0 of its machine, which is killed if a child exits with a failure."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and not environment.creates_processes_externally and trainer.local_rank > 0
