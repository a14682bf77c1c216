"""What callbacks ask that follow the weights from step to step: whether the last step has changed them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lightning.pytorch import Trainer


@runtime_checkable
class SkipsSteps(Protocol):
    """A callback that keeps the optimizer from stepping."""

    def skipped(self, step: int) -> bool:
        """Whether the step after which ``trainer.global_step`` is ``step`` was skipped."""


def was_skipped(trainer: Trainer) -> bool:
    """Whether some callback has skipped the step that has just ended."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(one, SkipsSteps) and one.skipped(trainer.global_step) for one in callbacks)
