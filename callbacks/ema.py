"""Judges and keeps a moving average of the trained weights beside the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from components.backbones.sharding import local, reshard
from components.errors import InputError

EMA_PREFIX = "ema."
"""What the averages are called in checkpoints: ``ema.<name of the weight>``."""


@runtime_checkable
class SkipsSteps(Protocol):
    """A callback that keeps the optimizer from stepping."""

    def skipped(self, step: int) -> bool:
        """Whether the step after which ``trainer.global_step`` is ``step`` was skipped."""


class EMA(Callback):
    """Exponential moving average, in float32, of everything that trains.

    After the n-th optimizer step ``average += (1 - d) (weight - average)`` with ``d = min(decay, (1 + n) / (10 + n))``,
    so that the first steps do not hold on to the initial weights; a step that `NaNGuard` skips
    changes nothing. Validation, test and prediction run with the
    averages in place of the weights; training goes on with the weights. The averages are part of the module, so
    checkpoints of every kind hold them, and every process averages only the shards it has.

    Args:
        decay: d in the long run, 0 to 1.

    Raises:
        InputError: if ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"EMA.decay is {decay}; it must be at least 0 and below 1")
        self.decay = decay
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._names: list[str] = []
        self._averaged_steps = 0
        self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the weights in the layout, sharded or not, that they will train in."""
        # Lightning calls it after this hook, but averages need the layout, sharded or not, that the weights train in
        pl_module.configure_model()
        # once: fit and a later test of the same module both come here
        if not hasattr(pl_module, "ema"):
            reshard(pl_module)
            trainable = {n: p for n, p in pl_module.named_parameters() if p.requires_grad}
            pl_module.ema = mirror(trainable)
        reshard(pl_module)
        weights = dict(pl_module.named_parameters())
        averages = {n.removeprefix(EMA_PREFIX): p for n, p in weights.items() if n.startswith(EMA_PREFIX)}
        self._names = list(averages)
        self._pairs = [(weights[name], average) for name, average in averages.items()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on counting where the run goes on."""
        self._averaged_steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages once per optimizer step."""
        step = trainer.global_step
        if step == self._averaged_steps:
            return  # gradients are being accumulated
        self._averaged_steps = step
        if _was_skipped(trainer):
            return
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        weights, averages = ([local(tensor) for tensor in tensors] for tensors in zip(*self._pairs, strict=True))
        # average += rate (weight - average), all tensors in few kernels, shards only
        torch._foreach_lerp_(averages, [weight.float() for weight in weights], rate)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the averages."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to the weights."""
        self._swap(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the averages."""
        self._swap(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to the weights."""
        self._swap(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generates with the averages."""
        self._swap(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to the weights."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tells weights from averages in a checkpoint that is written while they have changed places."""
        state = checkpoint["state_dict"]
        if self._swapped:
            for name in self._names:
                if name in state:
                    state[name], state[EMA_PREFIX + name] = state[EMA_PREFIX + name], state[name]

    @contextmanager
    def in_place(self, module: LightningModule) -> Iterator[None]:
        """Averages in place of the weights, also for what is no validation."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        """Exchanges weights and averages in place."""
        reshard(module)  # gathered copies of the old values must not be used again
        for weight, average in self._pairs:
            mine, other = local(weight), local(average)
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)
        self._swapped = not self._swapped


def judged_weights(trainer: Trainer, module: LightningModule) -> AbstractContextManager[None]:
    """The weights that validation judges in place of those that train: their averages, where a callback keeps them."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((one.in_place(module) for one in callbacks if isinstance(one, EMA)), nullcontext())


def mirror(parameters: dict[str, nn.Parameter]) -> nn.Module:
    """A module whose parameters have the same names, hold float32 copies and do not train."""
    root = nn.Module()
    for name, parameter in parameters.items():
        # nested as the original, since names of parameters cannot hold dots
        *path, leaf = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(leaf, nn.Parameter(parameter.detach().clone().float(), requires_grad=False))
    return root


def _was_skipped(trainer: Trainer) -> bool:
    """Whether some callback has skipped the step that has just ended."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(one, SkipsSteps) and one.skipped(trainer.global_step) for one in callbacks)
