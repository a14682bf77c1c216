"""Keeps losses and gradients that are no numbers away from the weights."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from callbacks.bad_step import HeldBatch, bad_batches, told, weights_are_sound
from callbacks.replay_file import keep_for_replay
from callbacks.step_again import RandomState
from components.backbones.sharding import whole
from components.errors import InputError

_ADVICE = (
    "lower the learning rate, set trainer.gradient_clip_val, look for a damaged clip in the training data, or let "
    "NaNGuard.skip_steps leave out a few such steps"
)


@runtime_checkable
class ClipsByNorm(Protocol):
    """A module that clips its gradients by the norm the guard has found, so that they are read once.

    Attributes:
        gradient_norm: of the step in progress, over all processes; None where nobody has looked.
    """

    gradient_norm: Tensor | None


class NaNGuard(Callback):
    """Raises, on all processes together, before a NaN or infinite loss or gradient reaches the weights.

    It looks once in an optimizer step, when the gradients of all its batches and processes are there; until then it
    holds the batches that are accumulated, on their device. Where a loss is
    finite and a gradient is not, every process runs its batches again to find out whose it is. The batch is kept in the
    run's folder, ``replay/step<n>_rank<r>.pt``, for ``avsync replay``. With ``16-mixed``, steps that the loss scale
    makes overflow are left to the scaler, which skips them, until the scale has fallen to 1.

    A step that is skipped leaves weights, optimizer state and moving average as they are on all processes; it counts as
    a step for everything else, the learning rate's schedule, validation and checkpoints among them. How many were
    skipped is logged as ``train/skipped_steps`` and kept in checkpoints.

    Args:
        every_n_steps: how often to look; on a GPU every look waits for the device.
        skip_steps: how many bad steps of a training are skipped; the next one ends it.

    Raises:
        InputError: in training, naming the step, what is not finite, the process and the clips.
    """

    def __init__(self, every_n_steps: int = 1, skip_steps: int = 0) -> None:
        if every_n_steps < 1:
            raise InputError(f"NaNGuard.every_n_steps is {every_n_steps}; it must be at least 1")
        if skip_steps < 0:
            raise InputError(f"NaNGuard.skip_steps is {skip_steps}; it must be at least 0")
        if skip_steps and every_n_steps > 1:
            raise InputError(
                f"NaNGuard.skip_steps is {skip_steps} but every_n_steps is {every_n_steps}: a step that nobody looks "
                "at is not skipped; set every_n_steps to 1"
            )
        self.every_n_steps = every_n_steps
        self.skip_steps = skip_steps
        self._num_skipped = 0
        self._skipped_at: int | None = None
        self._held: list[HeldBatch] = []

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped."""
        return {"skipped": self._num_skipped} if self._num_skipped else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._num_skipped = state_dict.get("skipped", 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Holds the batches of the step until it has been looked at."""
        # the rule by which Lightning begins to accumulate anew
        if batch_idx % trainer.accumulate_grad_batches == 0 or not pl_module.automatic_optimization:
            self._held = []
        if self._looks(trainer):
            self._held.append(HeldBatch(batch, batch_idx, RandomState.now(pl_module.device)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Notes on the device whether the loss is finite."""
        if self._held:
            value = loss.detach().float().mean()
            # a loss that has been scaled may overflow where the loss itself does not
            sound = torch.isfinite(value) if _scaler(trainer) is None else ~torch.isnan(value)
            parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._held[-1].loss, self._held[-1].loss_is_sound = value * parts, sound

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the losses and at the gradient as the optimizer would get it."""
        if not self._looks(trainer):
            return
        held, self._held = self._held, []
        norm = gradient_norm(optimizer, pl_module.device)
        losses = [one.loss_is_sound.to(norm.device) for one in held if one.loss_is_sound is not None]
        sound = torch.stack([torch.isfinite(norm), *losses])
        bad = torch.stack([~sound[0], ~sound[1:].all()]).float()
        # decided together: a rank that stopped alone would leave the others in a collective
        bad_norms, bad_losses = trainer.strategy.reduce(bad, reduce_op="sum").tolist()  # the only wait for the device
        if not bad_losses and (not bad_norms or _is_left_to_scaler(trainer)):
            if isinstance(pl_module, ClipsByNorm):
                pl_module.gradient_norm = norm
            return
        self._refuse(trainer, pl_module, held, bool(bad_losses))
        # optimizers pass over weights without a gradient: no decay, no momentum
        optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs how many steps were skipped."""
        if self.skip_steps:
            pl_module.log("train/skipped_steps", float(self._num_skipped))

    def skipped(self, step: int) -> bool:
        """Whether the step after which ``trainer.global_step`` is ``step`` was skipped."""
        return self._skipped_at == step

    def _refuse(self, trainer: Trainer, module: LightningModule, held: list[HeldBatch], in_loss: bool) -> None:
        """Says what is wrong; raises unless the step may be skipped. Every process comes here."""
        found = bad_batches(trainer, module, held, in_loss)
        text = told(trainer.global_step, found, weights_are_sound(trainer, module))
        may_skip = self._num_skipped < self.skip_steps
        # of those that are skipped only the first: a file holds all weights that train
        if found and (not may_skip or not self._num_skipped):
            text = f"{text}; {keep_for_replay(trainer, module, found[0], held, text)}"
        if may_skip:
            self._num_skipped += 1
            self._skipped_at = trainer.global_step + 1
            rank_zero_warn(f"skipped a step, {self._num_skipped} of at most {self.skip_steps}: {text}")
            return
        if self._num_skipped:
            were = "step was" if self._num_skipped == 1 else "steps were"
            text = f"{text}; {self._num_skipped} {were} skipped before, as many as NaNGuard.skip_steps allows"
        raise InputError(f"{text}; {_ADVICE}")

    def _looks(self, trainer: Trainer) -> bool:
        return trainer.global_step % self.every_n_steps == 0


def gradient_norm(optimizer: Optimizer, device: torch.device) -> Tensor:
    """Norm of all gradients of an optimizer's parameters, the same on every process; a tensor on the device.

    Every process has to call it.
    """
    held = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    kinds = [[one for one in held if isinstance(one, DTensor) is sharded] for sharded in (False, True)]
    # the norm of shards is in parts too: ``whole`` adds it up over all processes
    norms = [whole(get_total_norm(kind)).to(device) for kind in kinds if kind]
    return norms[0] if len(norms) == 1 else get_total_norm(norms).to(device)


def _scaler(trainer: Trainer) -> GradScaler | None:
    return getattr(trainer.precision_plugin, "scaler", None)


def _is_left_to_scaler(trainer: Trainer) -> bool:
    """Whether a gradient that is not finite may be the loss scale's doing: the scaler skips the step and halves it."""
    scaler = _scaler(trainer)
    return scaler is not None and scaler.get_scale() > 1
