"""The one place that maps Lightning's evaluation hooks onto what an evaluation callback does, and what judges share."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from callbacks.failures import TRACEBACKS, ConnectionToRanksLost, Failure, FailureLog, RankFailed, exchanged, failure_of
from components.contracts import Generation, MetricResult
from components.errors import InputError

# kinds of video that are judged, beside the variants' own names
GENERATED = "generated"
REAL = "real"
CHANCE = "chance"

_GOES_ON = "the run goes on without it, and it is tried again at the next evaluation"

T = TypeVar("T")
Key = TypeVar("Key")


class OfRecording(Protocol):
    """Something that is known of a clip."""

    @property
    def id(self) -> str:
        """Name of the clip."""

    @property
    def video_id(self) -> str:
        """The recording it was cut from."""


class OfKinds(OfRecording, Protocol):
    """What a judge found in the kinds of video there are of a clip."""

    @property
    def kinds(self) -> Sequence[str]:
        """``generated``, names of variants and, where there is a real video, ``real``."""


Recorded = TypeVar("Recorded", bound=OfRecording)
Judged = TypeVar("Judged", bound=OfKinds)


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
        self._broken = None
        try:
            self.start(trainer, module)
        except Exception as error:
            self._break(trainer, "begin", error)

    def _see(self, trainer: Trainer, generation: Generation) -> None:
        if self._broken is None:
            try:
                self.update(generation)
            except Exception as error:
                first, *others = generation.reference.ids
                self._break(trainer, "judge", error, f"{first} and {len(others)} more" if others else first)

    def _end(self, trainer: Trainer, module: LightningModule) -> None:
        try:
            try:
                if self._broken is None:
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
            self._see(trainer, outputs)

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
            self._see(trainer, outputs)

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


class JudgeCallback(EvaluationCallback, Generic[Judged]):
    """A frozen judge that scores every kind of video, beside its ceiling (real videos) and its floor (chance).

    Clips are judged batch by batch; at the end those of all ranks are put together, each once, and every rank computes
    the same entries from all of them. Subclasses say what is found in a clip, and make entries and rows of it.

    Args:
        judge: frozen here, never part of the trained model; on the model's device only while it is needed.
        metrics: names of what is reported.

    Raises:
        InputError: if a name is no word.
    """

    def __init__(self, judge: nn.Module, metrics: Sequence[str]) -> None:
        super().__init__()
        self.metrics = tuple(metrics)
        for metric in self.metrics:
            if not re.fullmatch(r"[A-Za-z]\w*", metric):
                raise InputError(
                    f"{type(self).__name__}.name makes a metric called '{metric}'; use letters, digits and underscores"
                )
        self._judging = judge.requires_grad_(False).eval()
        self._clips: list[Judged] = []
        self._chance: dict[str, dict[str, float | None]] = {}
        self._show_bar = True

    @abstractmethod
    def judged(self, generation: Generation, rows: Sequence[int]) -> list[Judged]:
        """What is found in the clips of those ``rows``, in their order."""

    @abstractmethod
    def entries(self, kind: str, clips: Sequence[Judged]) -> Mapping[str, MetricResult]:
        """Entries of one kind of video for ``results``."""

    @abstractmethod
    def chance(self, trainer: Trainer, clips: Sequence[Judged]) -> Mapping[str, MetricResult]:
        """Entries of generated videos with the sounds of other recordings (`mismatched`). Every rank calls it.

        Also says by `has_chance` what each clip scores with the other's sound.
        """

    @abstractmethod
    def scores(self, clip: Judged) -> Mapping[str, Mapping[str, float | None]]:
        """Kind of video -> entry -> what the clip adds to it; None where it has no score."""

    @abstractmethod
    def row(self, clip: Judged) -> dict[str, object]:
        """What else is known of a clip, for ``clip_rows``."""

    def has_chance(self, clip: Judged, scores: Mapping[str, float | None]) -> None:
        """Notes entry -> score of a clip with another recording's sound."""
        self._chance[clip.id] = dict(scores)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that no other judge writes the same entries.

        Raises:
            InputError: if one does.
        """
        kinds = (GENERATED, REAL, CHANCE, *getattr(pl_module, "variants", ()))

        def entries(judge: JudgeCallback[Any]) -> set[str]:
            return {entry_name(metric, kind) for metric in judge.metrics for kind in kinds}

        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, JudgeCallback) and other is not self and (same := entries(self) & entries(other)):
                raise InputError(
                    f"a {type(self).__name__} and a {type(other).__name__} would both write '{min(same)}' into the "
                    "results; give one of them another name (init_args.name)"
                )

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Moves the judge to where the videos are."""
        self._judging.to(module.device).eval()
        self._clips = []
        self._show_bar = trainer.is_global_zero and trainer.progress_bar_callback is not None

    @torch.no_grad()
    def update(self, generation: Generation) -> None:
        """Judges the clips that are not repeated to even out ranks."""
        if rows := generation.valid_mask().nonzero().flatten().tolist():
            self._clips += self.judged(generation, rows)

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Scores the clips of all ranks, logs the scores and keeps a row per clip."""
        clips = each_once(gathered(trainer, self._clips))
        self._clips = []
        self.results, self._chance = {}, {}
        for kind in dict.fromkeys(kind for clip in clips for kind in clip.kinds):
            self.results |= self.entries(kind, [clip for clip in clips if kind in clip.kinds])
        self.results |= self.chance(trainer, clips)
        self._judging.cpu()
        self.clip_rows = {clip.id: self._row(clip) for clip in clips}
        self.log_results(trainer, module)

    def abandon(self) -> None:
        """Takes the judge off the model's device."""
        self._judging.cpu()
        self._clips = []

    def _row(self, clip: Judged) -> dict[str, object]:
        scores = {**self.scores(clip), CHANCE: self._chance.get(clip.id, {})}
        return {
            "video_id": clip.video_id,
            "scores": {name: score for found in scores.values() for name, score in found.items()},
            "kinds": {name: kind for kind, found in scores.items() for name in found},
            **self.row(clip),
        }


def logged_scalars(results: Mapping[str, MetricResult]) -> dict[str, float]:
    """What is logged of results: each under its own name, and the ends of its interval beside it."""
    return {
        f"{name}{end}": value
        for name, result in results.items()
        for end, value in zip(("", "_low", "_high"), (result.value, *result.ci95), strict=True)
    }


def remembered(found: dict[Key, T], keys: Sequence[Key], find: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """The values of ``keys``, those not found yet by one call.

    Args:
        found: values by key; completed in place.
        keys: what is asked for.
        find: the values of the keys at the given indices, in their order.
    """
    if new := [index for index, key in enumerate(keys) if key not in found]:
        found |= zip((keys[index] for index in new), find(new), strict=True)
    return [found[key] for key in keys]


def recording_indices(clips: Sequence[OfRecording]) -> tuple[int, list[int]]:
    """How many recordings the clips come from, and for every clip which one."""
    names = sorted({clip.video_id for clip in clips})
    return len(names), [names.index(clip.video_id) for clip in clips]


def gathered(trainer: Trainer, items: list[T]) -> list[T]:
    """The items of all ranks on every rank, rank 0's first. Every rank has to call it."""
    return [item for part in exchanged(trainer, items) for item in part]


def each_once(clips: Sequence[Recorded]) -> list[Recorded]:
    """Every clip once, in the order of the ids.

    A clip that evens out the batches of several ranks may come without a mask: its id tells.
    """
    # reversed, so that the first of several wins
    by_id = {clip.id: clip for clip in reversed(clips)}
    return [by_id[name] for name in sorted(by_id)]


def mismatched(clips: Sequence[Recorded]) -> list[tuple[Recorded, Recorded]]:
    """Each clip with the next one, around the end of the list, that was cut from another recording."""
    pairs = []
    for index, clip in enumerate(clips):
        others = (*clips[index + 1 :], *clips[:index])
        partner = next((other for other in others if other.video_id != clip.video_id), None)
        if partner is not None:
            pairs.append((clip, partner))
    return pairs


def entry_name(metric: str, kind: str) -> str:
    """The entry of ``results.json`` that judges one kind of video: ``cyclesync`` of ``w0`` is ``cyclesync_w0``."""
    return metric if kind == GENERATED else f"{metric}_{kind}"
