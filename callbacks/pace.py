"""Which validations of a training a slow metric takes part in."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from callbacks.evaluation import EvaluationCallback
from components.errors import InputError


class PacedCallback(EvaluationCallback):
    """Measures in every n-th validation of a training, in its last one, and in all of ``validate`` and ``test``.

    Attributes:
        every_n_evaluations: n.
        measures: whether the evaluation that has begun is one of them.
    """

    every_n_evaluations: int = 1
    measures: bool = True
    _evaluations: int = 0

    def keep_pace(self, every_n_evaluations: int) -> None:
        """Sets n.

        Raises:
            InputError: if it is below 1.
        """
        if every_n_evaluations < 1:
            name = type(self).__name__
            raise InputError(f"{name}.every_n_evaluations is {every_n_evaluations}; it must be at least 1")
        self.every_n_evaluations = every_n_evaluations

    def is_its_turn(self, trainer: Trainer) -> bool:
        """Counts the evaluation that begins, and says (and keeps in ``measures``) whether it is measured."""
        if trainer.state.fn != "fit":
            self.measures = True
            return True
        self._evaluations += 1
        epochs, steps = trainer.max_epochs, trainer.max_steps
        last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
        last = 0 <= steps <= trainer.global_step or (last_epoch and trainer.is_last_batch)
        self.measures = last or self._evaluations % self.every_n_evaluations == 0
        return self.measures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that nobody chooses by a metric that most validations lack.

        Raises:
            InputError: if a callback does, or if another one writes the same entries.
        """
        super().setup(trainer, pl_module, stage)
        if self.every_n_evaluations == 1:
            return
        for callback in (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks):
            monitor = callback.monitor if isinstance(callback, ModelCheckpoint | EarlyStopping) else None
            if monitor and any(monitor.startswith(metric) for metric in self.metrics):
                raise InputError(
                    f"{type(callback).__name__}.monitor is '{monitor}', which {type(self).__name__} measures in every "
                    f"{self.every_n_evaluations}. validation only; set its every_n_evaluations to 1"
                )

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were."""
        return {"evaluations": self._evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self._evaluations = state_dict["evaluations"]
