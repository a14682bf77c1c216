"""The same experiment on other numbers of GPUs: batches, memory, hours, and what the network between them carries."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.estimates.counts import Counts
from lightning_modules.estimates.memory import FLOAT32, Sharing

TERA = 1e12


@dataclass(frozen=True)
class Run:
    """What a run is, whatever it runs on.

    Attributes:
        steps: optimizer steps.
        accumulate: batches of a GPU that make a step.
        clips_per_step: clips of all GPUs that make a step; None for as many as the batches of all of them hold.
        sharded: weights are sharded (FSDP2), or whole on every GPU (DDP).
        reduce_every_batch: sharded gradients are averaged after every batch that is accumulated.
        averaged: a moving average is kept.
        compute_bytes: of a weight while it is computed with.
    """

    steps: int
    accumulate: int
    clips_per_step: int | None
    sharded: bool
    reduce_every_batch: bool
    averaged: bool
    compute_bytes: int


@dataclass(frozen=True)
class Dealt:
    """How the clips of a step are dealt out.

    Attributes:
        batch: clips that a GPU takes at once.
        accumulate: batches of a GPU that make a step.
        clips: of a step.
    """

    batch: int
    accumulate: int
    clips: int


def deal(run: Run, batch: int, gpus: int) -> Dealt | None:
    """Clips of a step over GPUs, in batches of ``batch`` or fewer; None where they cannot be dealt out evenly."""
    if run.clips_per_step is None:
        return Dealt(batch, run.accumulate, batch * run.accumulate * gpus)
    each, left = divmod(run.clips_per_step, gpus)
    if left or not each:
        return None
    fits = max(size for size in range(1, min(batch, each) + 1) if each % size == 0)
    return Dealt(fits, each // fits, run.clips_per_step)


@dataclass(frozen=True)
class Traffic:
    """Bytes that each GPU receives over the network in a step, and sends as well.

    Attributes:
        all_gather: of weights.
        reduce_scatter: of gradients; of DDP's all-reduce both halves.
    """

    all_gather: float
    reduce_scatter: float

    @property
    def total(self) -> float:
        """Both."""
        return self.all_gather + self.reduce_scatter


def memory_per_gpu(counts: Counts, run: Run, gpus: int, dealt: Dealt) -> dict[str, float]:
    """Bytes by what they are, and their ``peak``; activations are those of the experiment's own batch size."""
    waits = run.sharded and gpus > 1 and dealt.accumulate > 1 and not run.reduce_every_batch
    return counts.memory.per_gpu(Sharing(gpus, run.sharded, waits, run.compute_bytes), run.averaged)


def step_s(counts: Counts, clips: int, gpus: int, mfu: float, peak_tflops: float) -> tuple[float, float]:
    """Seconds of the transformer and of the encoding in a step, both at the same rate."""
    rate = gpus * mfu * peak_tflops * TERA
    return counts.transformer_flops * clips / rate, counts.encoding_flops * clips / rate


def traffic(counts: Counts, run: Run, gpus: int, dealt: Dealt) -> Traffic:
    """What goes over the network, by the ring algorithms: ``(N - 1) / N`` of everything that is gathered or reduced."""
    share, gradients = (gpus - 1) / gpus, counts.memory.model.trained * FLOAT32
    if not run.sharded:
        return Traffic(0.0, 2 * share * gradients)
    reductions = dealt.accumulate if run.reduce_every_batch else 1
    gathered = counts.memory.gathered * run.compute_bytes * dealt.accumulate
    return Traffic(share * gathered, share * gradients * reductions)
