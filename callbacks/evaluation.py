"""The one place that maps Lightning's evaluation hooks onto what an evaluation callback does."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from callbacks.failures import TRACEBACKS, ConnectionToRanksLost, Failure, FailureLog, RankFailed, exchanged, failure_of
from callbacks.judging_time import JudgingTime
from components.contracts import Generation, MetricResult, ReportsResults
from components.errors import InputError

# kinds of video that are judged, beside the variants' own names
GENERATED = "generated"
REAL = "real"
CHANCE = "chance"

_GOES_ON = "the run goes on without it, and it is tried again at the next evaluation"

T = TypeVar("T")


class EvaluationCallback(Callback):
    """Sees every `Generation` of a validation or test, under ``fit``, ``validate`` and ``test`` alike.

    Subclasses override what they need of ``start``, ``update``, ``finish`` and ``conclude``. Lightning's sanity check
    before training and steps that return something else than a `Generation` are passed over.

    What one of them raises is said and kept in ``failures``; the evaluation goes on without this callback, which then
    has no results, on any rank: what it would have logged and a checkpoint is chosen by is NaN. ``finish`` may fail on
    one rank alone, so whatever ranks tell each other there goes through `gathered`.

    Attributes:
        results: metric name -> result of the last evaluation, the same on every rank.
        clip_rows: clip id -> what is known of that clip; rank 0 holds all clips.
        failures: what failed in this run.
        stage: ``val`` or ``test``.
        global_step: optimizer steps behind the weights that are judged.
        metrics: names of what is reported; those of the entries begin with them.
        time: what this evaluation has cost so far on this rank.
    """

    metrics: tuple[str, ...] = ()
    needs_reference: ClassVar[bool] = False
    """Whether it has nothing to say without real clips: ``avsync score`` leaves it out where there are none."""

    def __init__(self) -> None:
        self.results: dict[str, MetricResult] = {}
        self.clip_rows: dict[str, dict[str, object]] = {}
        self.failures = FailureLog()
        self.stage = "val"
        self.global_step = 0
        self.time = JudgingTime()
        self._named_by = "name"
        self._broken: Failure | None = None
        self._logged: set[str] = set()

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Metrics that are reported of every kind of video by a callback with these ``init_args``."""
        del arguments
        return ()

    @classmethod
    def logged_names(cls, arguments: Mapping[str, Any], variants: Sequence[str]) -> list[str]:
        """What can be watched of a callback with these ``init_args`` and a model that generates these variants."""
        kinds = (GENERATED, REAL, CHANCE, *variants)
        ends = ("", "_low", "_high")
        metrics = cls.metrics_of(arguments)
        return [f"{entry_name(metric, kind)}{end}" for metric in metrics for kind in kinds for end in ends]

    def report_as(self, metrics: Sequence[str], key: str = "name") -> None:
        """Sets ``metrics``, which the argument ``key`` has named.

        Raises:
            InputError: if one is no word.
        """
        for metric in metrics:
            if not re.fullmatch(r"[A-Za-z]\w*", metric):
                raise InputError(
                    f"{type(self).__name__}.{key} makes a metric called '{metric}'; use letters, digits and underscores"
                )
        self.metrics, self._named_by = tuple(metrics), key

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that neither another callback nor a module that judges itself writes the same entries.

        Raises:
            InputError: if one does.
        """
        kinds = (GENERATED, REAL, CHANCE, *getattr(pl_module, "variants", ()))

        def entries(of: EvaluationCallback) -> set[str]:
            return {entry_name(metric, kind) for metric in of.metrics for kind in kinds}

        judged = getattr(pl_module, "logged_names", ()) if isinstance(pl_module, ReportsResults) else ()
        if same := entries(self) & set(judged):
            raise InputError(
                f"a {type(self).__name__} and the {type(pl_module).__name__}, which judges itself, would both write "
                f"'{min(same)}' into the results; give the callback another name (init_args.{self._named_by}) or leave "
                "it out"
            )
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, EvaluationCallback) and other is not self and (same := entries(self) & entries(other)):
                raise InputError(
                    f"a {type(self).__name__} and a {type(other).__name__} would both write '{min(same)}' into the "
                    f"results; give one of them another name (init_args.{self._named_by})"
                )

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """An evaluation begins."""

    def update(self, generation: Generation) -> None:
        """A batch of clips was generated."""

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """All clips were seen: fill ``results`` and ``clip_rows``; metrics may be logged. Called on every rank."""

    def conclude(self, trainer: Trainer, module: LightningModule) -> None:
        """All callbacks have finished: their results can be read."""

    def abandon(self) -> None:
        """The evaluation failed on some rank: let go of what was held for it."""

    def log_results(self, trainer: Trainer, module: LightningModule) -> None:
        """Logs every result under its name in ``results.json``, and the ends of its interval beside it."""
        scalars = logged_scalars(self.results)
        self._logged |= scalars.keys()
        # to the loggers by hand: outside of `fit` Lightning would log at step 0, not at that of the loaded weights
        module.log_dict(scalars, logger=False)
        loggers: Sequence[Logger] = trainer.loggers
        for logger in loggers:
            logger.log_metrics(scalars, step=self.global_step)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers how long loaded weights were trained; the trainer's own counter stays 0 outside of ``fit``."""
        self.global_step = checkpoint["global_step"]

    def _begin(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        self.stage = stage
        # outside of ``fit`` the trainer counts from 0, and the number of the loaded checkpoint stays
        if trainer.training or trainer.state.fn == "fit":
            self.global_step = trainer.global_step
        self._broken, self.time = None, JudgingTime()
        try:
            with self._counted(trainer, module):
                self.start(trainer, module)
        except Exception as error:
            self._break(trainer, "begin", error)

    def _counted(self, trainer: Trainer, module: LightningModule) -> AbstractContextManager[None]:
        # in a training the allocator's record is that of the training steps
        return self.time.counted(module.device, with_memory=trainer.state.fn != "fit")

    def _see(self, trainer: Trainer, module: LightningModule, generation: Generation) -> None:
        if self._broken is None:
            clips = int(generation.valid_mask().sum())
            self.time.clips += clips
            self.time.clip_s += clips * generation.video.shape[1] / generation.fps
            try:
                with self._counted(trainer, module):
                    self.update(generation)
            except Exception as error:
                first, *others = generation.reference.ids
                self._break(trainer, "judge", error, f"{first} and {len(others)} more" if others else first)

    def _end(self, trainer: Trainer, module: LightningModule) -> None:
        try:
            try:
                if self._broken is None:
                    with self._counted(trainer, module):
                        self.finish(trainer, module)
            except (RankFailed, ConnectionToRanksLost):
                raise
            except Exception as error:
                self._break(trainer, "finish", error)
            # every rank ends with this one, so that none leaves while another still may fail
            exchanged(trainer, self._broken)
        except RankFailed as failed:
            for failure in failed.failures:
                self.failures.add(failure, _GOES_ON, say=trainer.is_global_zero)
            self.results, self.clip_rows = {}, {}
            with self.failures.kept(trainer, self, "let go of what it held", _GOES_ON):
                self.abandon()
            self._log_nothing(trainer, module)

    def _break(self, trainer: Trainer, action: str, error: Exception, subject: str = "") -> None:
        """Notes what failed here; it is said when all ranks know."""
        self._broken = failure_of(trainer, self, action, error, subject)
        TRACEBACKS.error(self._broken.sentence, exc_info=error)

    def _log_nothing(self, trainer: Trainer, module: LightningModule) -> None:
        """NaN for what is chosen by: the last evaluation's score is not that of these weights."""
        names = set(self._logged)
        for callback in (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks):
            monitor = callback.monitor if isinstance(callback, ModelCheckpoint | EarlyStopping) else None
            # nobody has logged it yet: it may have been this callback's first
            mine = any(str(monitor).startswith(metric) for metric in self.metrics)
            if monitor and mine and monitor not in trainer.callback_metrics:
                names.add(monitor)
        module.log_dict(dict.fromkeys(sorted(names), math.nan), logger=False)

    def _sum_up(self, trainer: Trainer, module: LightningModule) -> None:
        with self.failures.kept(trainer, self, "conclude the evaluation", _GOES_ON):
            self.conclude(trainer, module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self._begin(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts."""
        self._begin(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates."""
        if isinstance(outputs, Generation) and not trainer.sanity_checking:
            self._see(trainer, pl_module, outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates."""
        if isinstance(outputs, Generation):
            self._see(trainer, pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes."""
        if not trainer.sanity_checking:
            self._end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finishes."""
        self._end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes."""
        if not trainer.sanity_checking:
            self._sum_up(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concludes."""
        self._sum_up(trainer, pl_module)


def logged_scalars(results: Mapping[str, MetricResult]) -> dict[str, float]:
    """What is logged of results: each under its own name, and the ends of its interval beside it."""
    return {
        f"{name}{end}": value
        for name, result in results.items()
        for end, value in zip(("", "_low", "_high"), (result.value, *result.ci95), strict=True)
    }


def gathered(trainer: Trainer, items: list[T]) -> list[T]:
    """The items of all ranks on every rank, rank 0's first. Every rank has to call it."""
    return [item for part in exchanged(trainer, items) for item in part]


def entry_name(metric: str, kind: str) -> str:
    """The entry of ``results.json`` that judges one kind of video: ``cyclesync`` of ``w0`` is ``cyclesync_w0``."""
    return metric if kind == GENERATED else f"{metric}_{kind}"
