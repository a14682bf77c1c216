"""Runs one batch of training again, with the same draws, and names the gradients that are no numbers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class RandomState:
    """Where torch's own generators stood before a batch; what a module seeds itself does not depend on it.

    Attributes:
        cpu: of the CPU.
        cuda: of this process's GPU, or None without one.
    """

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The state of the CPU and of ``device``."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    @contextmanager
    def restored(self, device: torch.device) -> Iterator[None]:
        """Inside, generators go on from here; afterwards they are where they were before."""
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None and device.type == "cuda":
                torch.cuda.set_rng_state(self.cuda, device)
            yield


@dataclass
class Gradients:
    """The gradients that one process finds on its own batch, before they are averaged over processes.

    Attributes:
        sound: by parameter, a bool tensor: whether all of its gradient is finite.
    """

    sound: dict[str, Tensor] = field(default_factory=dict)

    def bad(self) -> list[str]:
        """Names of the parameters whose gradient is not finite, as the backward pass came to them."""
        return [name for name, sound in self.sound.items() if not sound]

    def note(self, name: str, gradient: Tensor) -> None:
        """Looks at a gradient as it arrives."""
        sound = torch.isfinite(gradient).all()
        self.sound[name] = sound & self.sound[name] if name in self.sound else sound


@contextmanager
def watched_gradients(module: nn.Module) -> Iterator[Gradients]:
    """Looks at every gradient of ``module`` inside the block, also of weights that are sharded over processes."""
    found, handles = Gradients(), list[RemovableHandle]()
    hooked: list[Tensor] = []  # held: the place of a tensor that is gone may be taken by another

    def watch(part: nn.Module, prefix: str) -> None:
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.requires_grad and not any(parameter is one for one in hooked):
                hooked.append(parameter)
                handles.append(parameter.register_hook(partial(found.note, prefix + name)))

    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        watch(part, prefix)
        # a sharded weight is another tensor while its module runs, and that one has the gradient of this process
        handles.append(part.register_forward_pre_hook(lambda part, _, prefix=prefix: watch(part, prefix)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def run_again(
    trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, random: RandomState
) -> tuple[float, Gradients]:
    """Loss and gradients of a batch at the weights of now; nothing is logged and no optimizer steps.

    With several processes all of them have to call it, each with its own batch.
    """
    takes_index = len(inspect.signature(module.training_step).parameters) > 1
    module.zero_grad()
    with random.restored(module.device), _without_logging(module), watched_gradients(module) as gradients:
        output: Any = trainer.strategy.training_step(*((batch, batch_idx) if takes_index else (batch,)))
        loss = output["loss"] if isinstance(output, dict) else output
        loss.backward()
    module.zero_grad()
    return loss.detach().float().mean().item(), gradients


@contextmanager
def _without_logging(module: LightningModule) -> Iterator[None]:
    """What a step logs would count twice."""
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log
