"""Logs how fast training goes, how much of the device it uses and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.failures import FailureLog
from components.backbones.data_place import context_size, data_place
from components.contracts import ClipBatch
from components.counting.flops import CountsSteps, StepCost
from components.errors import InputError

_MIB, TERA = 2**20, 1e12
_UNKNOWN = StepCost(0.0, 0.0)


class Throughput(Callback):
    """Logs under ``perf/`` how fast training goes; the whole run's figures go into ``results.json``.

    - ``samples_per_s``: clips of all ranks;
    - ``step_s``: seconds of a batch;
    - ``data_wait_share``: of that time, between the end of a batch and the beginning of the next: loader, copy to the
      device, other callbacks;
    - ``peak_memory_mib``;
    - ``tokens_per_s`` of all ranks and ``model_tflop_per_s`` of one device, for modules that count their steps
      (`CountsSteps`): the transformer's forward and backward pass, attention counted, recomputation not. Counted on the
      meta device, once for each shape of batch and between two batches, which that time is left out of;
    - ``mfu``: that rate as a share of the device's peak. Nothing on a CPU, or where nobody knows the peak.

    Only training counts: time spent validating is left out, time spent waiting for data is not.

    Args:
        every_n_steps: batches a mean is taken over.
        warmup_steps: first batches that do not count (compilation, cold caches).
        peak_tflops: peak rate of one device in TFLOP/s, dense products in the precision that is computed in; None takes
            the data sheet's by the device's name.
        count_flops: False logs neither tokens nor FLOPs.

    Attributes:
        throughput: figures of the whole run so far, by name without ``perf/``; empty before any.
        failures: where counting failed.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        warmup_steps: int = 3,
        peak_tflops: float | None = None,
        count_flops: bool = True,
    ) -> None:
        if every_n_steps < 1:
            raise InputError(f"Throughput.every_n_steps is {every_n_steps}; it must be at least 1")
        if peak_tflops is not None and not 0 < peak_tflops < float("inf"):
            raise InputError(f"Throughput.peak_tflops is {peak_tflops}; it must be positive")
        self.every_n_steps = every_n_steps
        self.warmup_steps = warmup_steps
        self.peak_tflops = peak_tflops
        self.count_flops = count_flops
        self.throughput: dict[str, float] = {}
        self.failures = FailureLog()
        self._seen = 0
        self._costs: dict[tuple[object, ...], StepCost] = {}
        self._saved = False
        self._ended: float | None = None
        self._window, self._run = _Sums(), _Sums()
        self._since = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """What an earlier run found is not this one's."""
        if stage == "fit":
            self.throughput = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._seen = 0
        self._window, self._run = _Sums(), _Sums()
        self._since, self._ended = time.perf_counter(), None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The wait is over; a checkpoint that was written meanwhile is no wait for data."""
        if self._ended is not None and not self._saved:
            self._window.waited_s += time.perf_counter() - self._ended
        self._saved = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a batch and logs every so many."""
        self._seen += 1
        now = time.perf_counter()
        if self._seen <= self.warmup_steps:
            self._window = _Sums()
        else:
            self._window.seconds += now - self._since
            self._window.batches += 1
            self._window.samples += len(batch) * data_place(trainer).size
        cost = self._cost(trainer, pl_module, batch)
        if self._window.batches:
            self._window.flops += cost.flops / context_size(trainer)
            self._window.tokens += cost.tokens * data_place(trainer).size
        self._since = time.perf_counter()  # counting is left out
        if self._window.batches >= self.every_n_steps:
            self._log(trainer, pl_module)
        self._ended = time.perf_counter()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes that one is written."""
        self._saved = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Banks the time up to here."""
        self._window.seconds += time.perf_counter() - self._since

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on counting."""
        self._since, self._ended = time.perf_counter(), None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last batches, too few to be logged, belong to the run."""
        if self._window.batches:
            self._wait_for_device(pl_module.device)
            self._run.add(self._window)
            self._window = _Sums()
        if self._run.batches:
            self.throughput = self._figures(trainer, pl_module, self._run)

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        self._wait_for_device(module.device)
        figures = self._figures(trainer, module, self._window)
        for logger in trainer.loggers:  # `log` would repeat the figures at each step until the next ones
            logger.log_metrics({f"perf/{name}": value for name, value in figures.items()}, step=trainer.global_step)
        self._run.add(self._window)
        self._window = _Sums()
        self.throughput = self._figures(trainer, module, self._run)

    def _wait_for_device(self, device: torch.device) -> None:
        """Once per window: kernels still in flight belong to it."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            now = time.perf_counter()
            self._window.seconds += now - self._since
            self._since = now

    def _figures(self, trainer: Trainer, module: LightningModule, sums: _Sums) -> dict[str, float]:
        figures = {
            "samples_per_s": sums.samples / sums.seconds,
            "step_s": sums.seconds / sums.batches,
            "data_wait_share": min(sums.waited_s / sums.seconds, 1.0),
            "peak_memory_mib": peak_memory_mib(module.device),
        }
        if sums.flops:
            rate = sums.flops / sums.seconds
            figures |= {"tokens_per_s": sums.tokens / sums.seconds, "model_tflop_per_s": rate / TERA}
            if (peak := self._peak(trainer, module.device)) is not None:
                figures["mfu"] = rate / peak
        return figures

    def _peak(self, trainer: Trainer, device: torch.device) -> float | None:
        """FLOP/s at best."""
        if self.peak_tflops is not None:
            return self.peak_tflops * TERA
        if device.type != "cuda":
            return None
        computes = getattr(trainer.strategy, "compute_dtype", None)
        bfloat16 = computes is torch.bfloat16 or str(trainer.precision).startswith("bf16")
        half = str(trainer.precision).startswith("16")
        dtype = torch.bfloat16 if bfloat16 else torch.float16 if half else torch.float32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a card that is not in its list
            return get_available_flops(device, dtype)

    def _cost(self, trainer: Trainer, module: LightningModule, batch: Any) -> StepCost:
        """What a batch of this shape costs, counted when the first one comes."""
        if not (self.count_flops and isinstance(module, CountsSteps) and isinstance(batch, ClipBatch)):
            return _UNKNOWN
        key = _shapes(batch)
        if key not in self._costs:
            self._costs[key] = _UNKNOWN
            with self.failures.kept(trainer, self, "count the FLOPs of a step", "the run goes on without them"):
                self._costs[key] = module.training_cost(batch) or _UNKNOWN
        return self._costs[key]


class _Sums:
    """What was counted in a number of batches of this process; clips and tokens are those of all processes."""

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self.seconds = self.waited_s = self.flops = self.tokens = 0.0

    def add(self, other: _Sums) -> None:
        """Adds another's counts to these."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def _shapes(batch: ClipBatch) -> tuple[object, ...]:
    """What the cost of a batch depends on, as far as tensors' shapes tell; texts make little difference."""
    latents, reference = batch.video_latents, batch.reference_audio
    pictures = batch.video.shape if latents is None else latents.shape
    return (len(batch), tuple(pictures), batch.num_samples, None if reference is None else reference.shape[1])


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: by the allocator on a GPU, by the process on a CPU; in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024  # bytes on macOS, KiB on Linux
