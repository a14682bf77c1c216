"""Logs how fast training goes and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.errors import InputError

_MIB = 2**20


class Throughput(Callback):
    """Logs ``perf/samples_per_s`` (all ranks), ``perf/step_s`` and ``perf/peak_memory_mib``.

    Only training counts: time spent validating is left out, time spent waiting for data is not.

    Args:
        every_n_steps: batches a mean is taken over.
        warmup_steps: first batches that do not count (compilation, cold caches).
    """

    def __init__(self, every_n_steps: int = 50, warmup_steps: int = 3) -> None:
        if every_n_steps < 1:
            raise InputError(f"Throughput.every_n_steps is {every_n_steps}; it must be at least 1")
        self.every_n_steps = every_n_steps
        self.warmup_steps = warmup_steps
        self._seen = 0
        self._reset()

    def _reset(self) -> None:
        self._batches = 0
        self._samples = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._seen = 0
        self._reset()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch and logs every so many."""
        self._seen += 1
        if self._seen <= self.warmup_steps:
            self._reset()
            return
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        self._batches += 1
        self._samples += len(batch) * trainer.world_size
        if self._batches < self.every_n_steps:
            return
        if pl_module.device.type == "cuda":
            # once per window: kernels still in flight belong to it
            torch.cuda.synchronize(pl_module.device)
            self._seconds += time.perf_counter() - now
        figures = {
            "perf/samples_per_s": self._samples / self._seconds,
            "perf/step_s": self._seconds / self._batches,
            "perf/peak_memory_mib": peak_memory_mib(pl_module.device),
        }
        for logger in trainer.loggers:  # `log` would repeat the figures at each step until the next ones
            logger.log_metrics(figures, step=trainer.global_step)
        self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Banks the time up to here."""
        self._seconds += time.perf_counter() - self._since

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on counting."""
        self._since = time.perf_counter()


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: by the allocator on a GPU, by the process on a CPU; in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024  # bytes on macOS, KiB on Linux
