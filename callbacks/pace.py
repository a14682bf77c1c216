"""Which validations of a training a slow metric takes part in."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from callbacks.evaluation import EvaluationCallback
from components.errors import InputError


class PacedCallback(EvaluationCallback):
    """Measures in every n-th validation of a training, in its last one, and in all of ``validate`` and ``test``.

    The last one is that after which none comes before the end that the trainer was given. A training that is told to
    end (by `EarlyStopping`) after a validation without this callback validates once more (``FinishingFitLoop``).

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
        """Says (and keeps in ``measures``) whether the evaluation that begins is measured."""
        if trainer.state.fn != "fit":
            self.measures = True
            return True
        # a run that was told to stop validates once more
        last = trainer.should_stop or _batches_left(trainer) < _batches_to_the_next(trainer)
        self.measures = last or (self._evaluations + 1) % self.every_n_evaluations == 0
        return self.measures

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts it: one that a stop breaks off is begun anew, and counts once."""
        super().on_validation_epoch_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._evaluations += 1

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


def _batches_left(trainer: Trainer) -> float:
    """Training batches that come before the end that was set, by steps or by epochs; infinite without one."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    left = math.inf
    if steps >= 0:
        left = (steps - trainer.global_step) * trainer.accumulate_grad_batches
    # an epoch without end is never the last
    if epochs is not None and epochs >= 0 and (of_epoch := trainer.num_training_batches) < math.inf:
        left = min(left, (epochs - trainer.current_epoch) * of_epoch - _batches_of_this_epoch(trainer))
    return left


def _batches_to_the_next(trainer: Trainer) -> float:
    """Training batches from this validation to the one after it, if the training went on."""
    every, epochs, of_epoch = trainer.val_check_batch, trainer.check_val_every_n_epoch, trainer.num_training_batches
    if every is None:
        return 1  # by the clock: nobody knows
    if epochs is None:
        return every  # counted through all epochs
    left = of_epoch - _batches_of_this_epoch(trainer)
    return every if every <= left else left + (epochs - 1) * of_epoch + min(every, of_epoch)


def _batches_of_this_epoch(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop.batch_idx + 1
