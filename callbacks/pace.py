"""Which validations of a training a slow metric takes part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from components.errors import InputError


class Pace:
    """Every n-th validation of a training, its last one, and all of ``validate`` and ``test``.

    Args:
        owner: what errors call the callback that keeps this pace.
        every_n_evaluations: n.

    Attributes:
        measures: whether the evaluation that has begun is one of them.

    Raises:
        InputError: if n is below 1.
    """

    def __init__(self, owner: str, every_n_evaluations: int) -> None:
        if every_n_evaluations < 1:
            raise InputError(f"{owner}.every_n_evaluations is {every_n_evaluations}; it must be at least 1")
        self.owner = owner
        self.every_n_evaluations = every_n_evaluations
        self.measures = True
        self._evaluations = 0

    def begin(self, trainer: Trainer) -> None:
        """An evaluation begins."""
        if trainer.state.fn != "fit":
            self.measures = True
            return
        self._evaluations += 1
        last = 0 <= trainer.max_steps <= trainer.global_step
        self.measures = last or self._evaluations % self.every_n_evaluations == 0

    def check(self, trainer: Trainer, metrics: Sequence[str]) -> None:
        """Makes sure that nobody chooses by a metric that most validations lack.

        Raises:
            InputError: if a callback does.
        """
        if self.every_n_evaluations == 1:
            return
        for callback in (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks):
            monitor = callback.monitor if isinstance(callback, ModelCheckpoint | EarlyStopping) else None
            if monitor and any(monitor.startswith(metric) for metric in metrics):
                raise InputError(
                    f"{type(callback).__name__}.monitor is '{monitor}', which {self.owner} measures in every "
                    f"{self.every_n_evaluations}. validation only; set its every_n_evaluations to 1"
                )

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were."""
        return {"evaluations": self._evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._evaluations = state_dict["evaluations"]
