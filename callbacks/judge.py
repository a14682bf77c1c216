"""What every judge of clips does: kinds of video beside their ceiling and their floor, over the clips of all ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from callbacks.evaluation import CHANCE, EvaluationCallback, entry_name, gathered
from components.contracts import Generation, MetricResult

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


class JudgeCallback(EvaluationCallback, Generic[Judged]):
    """A frozen judge that scores every kind of video, beside its ceiling (real videos) and its floor (chance).

    Clips are judged batch by batch; at the end those of all ranks are put together, each once, and every rank computes
    the same entries from all of them. Subclasses say what is found in a clip, and make entries and rows of it.

    Args:
        judge: frozen here, never part of the trained model; on the model's device only while it is needed.
        metrics: names of what is reported.
        lower_is_better: those of them of which less is better; the report orders clips by it.

    Raises:
        InputError: if a name is no word.
    """

    def __init__(self, judge: nn.Module, metrics: Sequence[str], lower_is_better: Collection[str] = ()) -> None:
        super().__init__()
        self.report_as(metrics)
        self.lower_is_better = frozenset(lower_is_better)
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
        lower = {entry_name(metric, kind) for metric in self.lower_is_better for kind in scores}
        return {
            "video_id": clip.video_id,
            "scores": {name: score for found in scores.values() for name, score in found.items()},
            "kinds": {name: kind for kind, found in scores.items() for name in found},
            "higher_is_better": {name: name not in lower for found in scores.values() for name in found},
            **self.row(clip),
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
    places = {name: place for place, name in enumerate(sorted({clip.video_id for clip in clips}))}
    return len(places), [places[clip.video_id] for clip in clips]


def each_once(clips: Sequence[Recorded]) -> list[Recorded]:
    """Every clip once, in the order of the ids.

    A clip that evens out the batches of several ranks may come without a mask: its id tells.
    """
    # reversed, so that the first of several wins
    by_id = {clip.id: clip for clip in reversed(clips)}
    return [by_id[name] for name in sorted(by_id)]


def mismatched(clips: Sequence[Recorded]) -> list[tuple[Recorded, Recorded]]:
    """Each clip with the next one, around the end of the list, that was cut from another recording."""
    count = len(clips)
    partners: list[int | None] = [None] * count
    # backwards, for a clip has the partner of the one behind it where both are of one recording; twice, for the list
    # goes round
    for place in reversed(range(2 * count)):
        index, behind = place % count, (place + 1) % count
        is_other = clips[behind].video_id != clips[index].video_id
        partners[index] = behind if is_other else partners[behind]
    return [(clip, clips[partner]) for clip, partner in zip(clips, partners, strict=True) if partner is not None]
