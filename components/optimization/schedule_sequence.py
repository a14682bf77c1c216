"""Schedules of the learning rate one after another, such as a warm-up and then a cosine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from components.errors import InputError


class ScheduleSequence(SequentialLR):
    """PyTorch's `SequentialLR` in a form that a configuration can give.

    ::

        lr_scheduler:
          class_path: components.optimization.ScheduleSequence
          init_args:
            schedules:
              - {class_path: torch.optim.lr_scheduler.LinearLR, init_args: {start_factor: 0.02, total_iters: 1000}}
              - {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 19000}}
            milestones: [1000]

    Args:
        optimizer: whose rates change.
        schedules: build the schedules in their order.
        milestones: steps at which the next one begins, one fewer than schedules; each counts its own steps from there.

    Raises:
        InputError: if milestones and schedules do not go together.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedules: Sequence[Callable[[Optimizer], LRScheduler]],
        milestones: Sequence[int],
    ) -> None:
        if len(milestones) != len(schedules) - 1 or list(milestones) != sorted(set(milestones)):
            raise InputError(
                f"ScheduleSequence.milestones is {list(milestones)} for {len(schedules)} schedules; give the step at "
                "which each but the first begins, in rising order"
            )
        super().__init__(optimizer, [schedule(optimizer) for schedule in schedules], list(milestones))
