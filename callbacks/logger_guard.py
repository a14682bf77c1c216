"""Loggers that fail do not end a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from callbacks.failures import FailureLog

_GUARDED = ("log_metrics", "save", "finalize", "after_save_checkpoint")
"""What loggers do while a run is under way; one that cannot even begin (no account, no folder) ends it at once."""


class LoggerGuard(Callback):
    """What a logger raises while the run is under way is said once, and the run goes on.

    Attributes:
        failures: what failed in this run.
    """

    def __init__(self) -> None:
        self.failures = FailureLog()
        self._guarded: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts itself between the trainer, the callbacks and every logger."""
        for logger in trainer.loggers:
            if not any(logger is one for one in self._guarded):
                self._guarded.append(logger)
                for name in _GUARDED:
                    setattr(logger, name, self._kept(trainer, logger, getattr(logger, name)))

    def _kept(self, trainer: Trainer, logger: Logger, method: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(method)
        def guarded(*args: Any, **kwargs: Any) -> None:
            # loggers work on rank 0 alone: no other rank waits for what is left out here
            with self.failures.kept(trainer, logger, method.__name__, "what it would have kept is lost"):
                method(*args, **kwargs)

        return guarded
