"""Whose batch made a step's loss or gradient not finite, and how to say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import gathered
from callbacks.step_again import RandomState, run_again
from components.backbones.sharding import local

_MAX_CLIPS = 8
_MAX_GRADIENTS = 3


@runtime_checkable
class TellsDraws(Protocol):
    """A module that can say what it has drawn for the clips of a training batch."""

    def drawn_for(self, batch: Any, batch_idx: int) -> list[str]:
        """For every clip, in words: its stage or task and its noise level."""


@dataclass
class HeldBatch:
    """A batch of the step in progress.

    Attributes:
        batch: on its device.
        batch_idx: as Lightning counts.
        random: where torch's generators stood before it.
        loss: its mean, a tensor on the device; None before the backward pass.
        loss_is_sound: whether that is finite, likewise.
    """

    batch: Any
    batch_idx: int
    random: RandomState
    loss: Tensor | None = None
    loss_is_sound: Tensor | None = None


@dataclass(frozen=True)
class BadBatch:
    """A batch whose loss or gradient is not finite, as all processes get to know of it.

    Attributes:
        rank: the process that had it.
        index: which of the batches of that process's step.
        what: what is not finite.
        clips: the clips' names, each with what was drawn for it.
    """

    rank: int
    index: int
    what: str
    clips: tuple[str, ...]

    def __str__(self) -> str:
        if not self.clips:
            return f"{self.what}, on rank {self.rank}"
        return f"{self.what}, on rank {self.rank} with clip{'s' * (len(self.clips) > 1)} {listed(self.clips)}"


def bad_batches(trainer: Trainer, module: LightningModule, held: Sequence[HeldBatch], in_loss: bool) -> list[BadBatch]:
    """The batches of all processes that made the step bad; none if gradients are finite when they are run again.

    Every process has to call it. Where the loss tells, nothing is run again.

    Args:
        trainer: that trains.
        module: that is trained.
        held: the batches of this process's step.
        in_loss: whether some loss of some process is not finite.
    """
    found = []
    for index, one in enumerate(held):
        what = _bad_loss(trainer, one, index == len(held) - 1) if in_loss else _bad_gradient(trainer, module, one)
        if what is not None:
            found.append(BadBatch(trainer.global_rank, index, what, tuple(clips_of(module, one))))
    return gathered(trainer, found)


def told(step: int, bad: Sequence[BadBatch], weights_are_sound: bool) -> str:
    """What happened in a bad step.

    Args:
        step: number of the optimizer step.
        bad: what was found; the first is described, of the others the processes are named.
        weights_are_sound: false if the weights were not finite before the step.
    """
    if bad:
        ranks = sorted({one.rank for one in bad} - {bad[0].rank})
        text = f"{bad[0]}{f' (and on rank {listed([str(rank) for rank in ranks])})' if ranks else ''}"
    else:
        text = f"the gradient is not finite at step {step}, but no process finds that again in clips of its own"
    if weights_are_sound:
        return text
    return f"{text}; weights were not finite before it either: set NaNGuard.every_n_steps to 1 to see since when"


def weights_are_sound(trainer: Trainer, module: LightningModule) -> bool:
    """Whether everything that trains is finite, on all processes; each has to call it."""
    sound = all(bool(torch.isfinite(local(p.detach())).all()) for p in module.parameters() if p.requires_grad)
    return trainer.strategy.reduce_boolean_decision(sound, all=True)


def _bad_loss(trainer: Trainer, held: HeldBatch, is_last: bool) -> str | None:
    if held.loss is None or held.loss_is_sound is None or held.loss_is_sound:
        return None
    # what is logged is of the last batch
    parts = [name for name, value in trainer.callback_metrics.items() if not torch.isfinite(value).all()]
    named = f" (not finite: {', '.join(parts)})" if parts and is_last else ""
    return f"the loss is {held.loss.item()} at step {trainer.global_step}{named}"


def _bad_gradient(trainer: Trainer, module: LightningModule, held: HeldBatch) -> str | None:
    loss, gradients = run_again(trainer, module, held.batch, held.batch_idx, held.random)
    names = gradients.bad()
    if not names:
        return None
    bad = f"{len(names)} of {len(gradients.sound)} gradients are not finite ({listed(names, _MAX_GRADIENTS)})"
    return f"the loss is {loss:.4g} at step {trainer.global_step} but {bad}"


def clips_of(module: LightningModule, held: HeldBatch) -> list[str]:
    """Names of the clips, damaged ones first, each with what is known of it; none if the batch has no names."""
    names = [str(name) for name in getattr(held.batch, "ids", [])]
    drawn = module.drawn_for(held.batch, held.batch_idx) if isinstance(module, TellsDraws) else []
    damage = [
        [
            f"its {field} is not finite"
            for field, value in vars(held.batch).items()
            if isinstance(value, Tensor) and len(value) == len(names) and not torch.isfinite(value[row]).all()
        ]
        for row in range(len(names))
    ]
    rows = sorted(range(len(names)), key=lambda row: not damage[row])
    told = [[*damage[row], *drawn[row : row + 1]] for row in rows]
    return [f"{names[row]} ({', '.join(of)})" if of else names[row] for row, of in zip(rows, told, strict=True)]


def listed(names: Sequence[str], most: int = _MAX_CLIPS) -> str:
    """The first ``most`` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
