"""Any metric that scores clips one by one, on everything a model generates, beside its ceiling and its floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from tqdm.auto import tqdm

from callbacks.evaluation import CHANCE, GENERATED, REAL, entry_name, gathered
from callbacks.judge import JudgeCallback, mismatched, recording_indices, remembered
from callbacks.pace import PacedCallback
from components.contracts import ClipBatch, Generation, MetricResult
from components.errors import InputError
from components.metrics.clip_means import ClipMeans
from components.metrics.scorers import ClipScorer, ClipScores, real_clips
from components.metrics.sound_offsets import with_sound_at
from components.weights.identity import sha256_of_facts

BY_SOUND_OFFSET = "by_sound_offset"
"""Detail of an entry: seconds by which the sound was moved, as text -> value and ends of its interval."""


_BYTES = WeakTensorKeyDictionary()
"""Videos that are being judged -> row -> its pictures as bytes, which several callbacks keep."""


@dataclass(frozen=True)
class ScoredClip:
    """The scores of one clip.

    Attributes:
        id: name of the clip.
        video_id: the recording it was cut from.
        scores: kind of clip (``generated``, a variant's name, ``real``) -> what the scorer says of it.
        moved: kind of clip -> seconds by which its sound was moved -> what the scorer says then.
        sound: ``[S]`` the sound of the generation, where sounds are exchanged at the end; empty otherwise.
    """

    id: str
    video_id: str
    scores: Mapping[str, ClipScores]
    moved: Mapping[str, Mapping[float, ClipScores]]
    sound: Tensor

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of video that were judged."""
        return tuple(self.scores)


@dataclass(frozen=True)
class _Kept:
    """A generated clip that waits for another's sound: its batch of one, with pictures as bytes on the CPU."""

    pictures: Tensor
    fps: float
    sample_rate: int
    batch: ClipBatch


class ClipMetrics(PacedCallback, JudgeCallback[ScoredClip]):
    """Scores every generation, its variants and the real clips with a frozen `ClipScorer`.

    Reports each of the scorer's metrics, with 95 % intervals over recordings, under the same name in results, logs and
    monitors: ``aq`` of the generation, ``aq_<variant>`` of each variant, ``aq_real`` of the real clips (the ceiling of
    most metrics; found once in a run). Clips that a scorer can say nothing of are counted in the entry, by the reason.

    Args:
        scorer: the judge; frozen here, never part of the trained model.
        name: put before every metric, with an underscore, to have two scorers of a kind side by side.
        every_n_evaluations: measure in every n-th validation of a training only, for metrics that are slow. The last
            one of a training counts always, and so do ``validate`` and ``test``.
        exchanged: also report ``<metric>_chance``, the floor of a metric that compares picture and sound: the pictures
            of each clip with the sound of the next clip (in the order of the ids, around the end) that was cut from
            another recording. Generated pictures are kept for it until the end, a byte per value and once for all
            callbacks that exchange; real ones only where the scorer compares with them (``needs_reference``).
        sound_offsets_s: also score generated and real clips with their sound moved by so many seconds, later where they
            are positive (`with_sound_at`): a judge of synchrony is best at 0 on real clips. The entries hold the curve,
            ``by_sound_offset``, and the report draws it.
        offload: keep the scorer off the model's device but while it scores a batch, so that many large ones fit.

    Raises:
        InputError: if ``name`` is no word or ``every_n_evaluations`` is below 1.
    """

    def __init__(
        self,
        scorer: ClipScorer,
        name: str | None = None,
        every_n_evaluations: int = 1,
        exchanged: bool = False,
        sound_offsets_s: Sequence[float] = (),
        offload: bool = False,
    ) -> None:
        self.name = name
        self._names = {metric: _entry(name, metric) for metric in scorer.higher_is_better}
        lower = [self._names[metric] for metric, higher in scorer.higher_is_better.items() if not higher]
        super().__init__(scorer, tuple(self._names.values()), lower)
        self.scorer = scorer
        self.keep_pace(every_n_evaluations)
        self.exchanged, self.offload = exchanged, offload
        self.sound_offsets_s = tuple(sorted(set(sound_offsets_s)))
        facts = {"scorer": f"{type(scorer).__module__}.{type(scorer).__qualname__}", **scorer.identity()}
        self._judge = {**facts, "judge": sha256_of_facts(facts)[:16]}
        self._real: dict[tuple[str, int], ClipScores] = {}
        self._real_moved: dict[tuple[str, int], dict[float, ClipScores]] = {}
        self._kept: dict[str, _Kept] = {}
        self._device = torch.device("cpu")

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The metrics of the scorer's class, each behind the name."""
        scorer: type[ClipScorer] = resolve_name(arguments["scorer"]["class_path"])
        return tuple(_entry(arguments.get("name"), metric) for metric in scorer.higher_is_better)

    @property
    def state_key(self) -> str:
        """Tells the scorers of a run apart in its checkpoints."""
        return f"{type(self).__qualname__}{list(self.metrics)}{self._judge['judge']}"

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Moves the judge to where the videos are, if it is its turn."""
        self._kept = {}
        self._device = module.device
        if self.is_its_turn(trainer):
            super().start(trainer, module)
            if self.offload:
                self.scorer.cpu()

    def update(self, generation: Generation) -> None:
        """Judges, if it is its turn."""
        if self.measures:
            self.scorer.to(self._device)
            super().update(generation)
            if self.offload:
                self.scorer.cpu()

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Scores, if it is its turn; nothing stands in the results otherwise."""
        if self.measures:
            super().finish(trainer, module)
        else:
            self.results, self.clip_rows = {}, {}

    def abandon(self) -> None:
        """Lets go of judge and clips."""
        super().abandon()
        self._kept = {}

    def judged(self, generation: Generation, rows: Sequence[int]) -> list[ScoredClip]:
        """Scores the generation, each variant and the real clip."""
        batch = generation.reference
        made = {GENERATED: generation, **generation.variants}
        scores: dict[str, list[ClipScores]] = {}
        with tqdm(made.items(), self.metrics[0], leave=False, unit="set", disable=not self._show_bar) as bar:
            for kind, item in bar:
                scores[kind] = self._score(item, rows)
        # a first frame alone, or a mute clip, has no ceiling
        if batch.video.shape[1] > 1 and batch.audio.shape[1]:
            scores[REAL] = self._score_real(batch, rows)
        moved = self._scores_of_moved(generation, rows)
        if self.exchanged:
            self._keep(generation, rows)
        return [
            ScoredClip(
                id=batch.ids[row],
                video_id=batch.video_ids[row],
                scores={kind: found[index] for kind, found in scores.items()},
                moved={kind: found[index] for kind, found in moved.items()},
                # a copy: a row's view would keep the batch
                sound=generation.audio[row].cpu().clone() if self.exchanged else generation.audio.new_zeros(0).cpu(),
            )
            for index, row in enumerate(rows)
        ]

    def _score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """Scores in float32, checked for what a scorer of one's own may get wrong."""
        with torch.autocast(generation.video.device.type, enabled=False):
            found = self.scorer.score(generation, rows)
        name = type(self.scorer).__qualname__
        if len(found) != len(rows):
            raise InputError(f"{name}.score gave {len(found)} scores for {len(rows)} clips; one each is needed")
        for scores in found:
            if unknown := sorted(scores.values.keys() - self._names.keys()):
                raise InputError(f"{name}.score gave '{unknown[0]}', which {name}.higher_is_better does not name")
        return found

    def _score_real(self, batch: ClipBatch, rows: Sequence[int]) -> list[ClipScores]:
        def score(new: list[int]) -> list[ClipScores]:
            return self._score(real_clips(batch), [rows[index] for index in new])

        return remembered(self._real, [(batch.ids[row], batch.num_frames) for row in rows], score)

    def _scores_of_moved(self, generation: Generation, rows: Sequence[int]) -> dict[str, list[dict[float, ClipScores]]]:
        """Kind -> clip by clip -> offset -> scores, of the generated and the real clips."""
        if not self.sound_offsets_s:
            return {}
        batch = generation.reference
        moved = {GENERATED: self._score_moved(generation, rows)}
        if batch.video.shape[1] > 1 and batch.audio.shape[1]:

            def score(new: list[int]) -> list[dict[float, ClipScores]]:
                return self._score_moved(real_clips(batch), [rows[index] for index in new])

            keys = [(batch.ids[row], batch.num_frames) for row in rows]
            moved[REAL] = remembered(self._real_moved, keys, score)
        return moved

    def _score_moved(self, generation: Generation, rows: Sequence[int]) -> list[dict[float, ClipScores]]:
        made = with_sound_at(generation, self.sound_offsets_s)
        found = {offset: self._score(clips, rows) for offset, clips in made.items()}
        return [{offset: scores[index] for offset, scores in found.items()} for index in range(len(rows))]

    def _keep(self, generation: Generation, rows: Sequence[int]) -> None:
        real = generation.reference
        if not self.scorer.needs_reference:
            # what a clip could have been conditioned on is all that such a scorer may look at
            real = replace(real, video=real.video[:, :1], video_latents=None)
        bytes_by_row: dict[int, Tensor] = _BYTES.setdefault(generation.video, {})
        for row in rows:
            if row not in bytes_by_row:
                bytes_by_row[row] = generation.video[row : row + 1].mul(255).round().to("cpu", torch.uint8)
            kept = _Kept(bytes_by_row[row], generation.fps, generation.sample_rate, real.row(row).to("cpu"))
            self._kept[real.ids[row]] = kept

    def chance(self, trainer: Trainer, clips: Sequence[ScoredClip]) -> Mapping[str, MetricResult]:
        """Scores of generated pictures with the sounds of other recordings, where that is asked for."""
        if not self.exchanged:
            return {}
        # pairs cross ranks: each rank has all sounds and scores its own pictures
        self.scorer.to(self._device)
        mine = {clip.id: self._dubbed(clip, other) for clip, other in mismatched(clips) if clip.id in self._kept}
        self._kept = {}
        scores = dict(gathered(trainer, list(mine.items())))
        scored = [clip for clip in clips if clip.id in scores]
        for clip in scored:
            self.has_chance(clip, self._of_clip(CHANCE, scores[clip.id]))
        return self._means(CHANCE, scored, [scores[clip.id] for clip in scored]) if scored else {}

    @torch.no_grad()
    def _dubbed(self, clip: ScoredClip, other: ScoredClip) -> ClipScores:
        """What the scorer says of the clip's pictures with the other's sound, as far as both reach."""
        kept = self._kept[clip.id]
        seconds = min(kept.pictures.shape[1] / kept.fps, len(other.sound) / kept.sample_rate)
        frames, samples = round(seconds * kept.fps), round(seconds * kept.sample_rate)
        dubbed = Generation(
            video=kept.pictures[:, :frames].to(self._device).float() / 255,
            fps=kept.fps,
            audio=other.sound[None, :samples].to(self._device),
            sample_rate=kept.sample_rate,
            reference=kept.batch.to(self._device),
        )
        (found,) = self._score(dubbed, [0])
        return found

    def entries(self, kind: str, clips: Sequence[ScoredClip]) -> Mapping[str, MetricResult]:
        """Means of one kind of clip, if any clip has a score."""
        found = self._means(kind, clips, [clip.scores[kind] for clip in clips])
        if not clips or kind not in clips[0].moved:
            return found
        curves: dict[str, dict[str, list[float]]] = {name: {} for name in found}
        for offset in self.sound_offsets_s:
            for name, result in self._means(kind, clips, [clip.moved[kind][offset] for clip in clips]).items():
                curves.setdefault(name, {})[f"{offset:g}"] = [result.value, *result.ci95]
        return {
            name: replace(result, details={**result.details, BY_SOUND_OFFSET: curves[name]})
            for name, result in found.items()
        }

    def _means(
        self, kind: str, clips: Sequence[ScoredClip], scores: Sequence[ClipScores]
    ) -> Mapping[str, MetricResult]:
        num_recordings, index = recording_indices(clips)
        problems = sorted({score.problem for score in scores if score.problem is not None})
        # every rank holds all scores, so there is nothing to synchronise
        metric = ClipMeans(list(self._names), num_recordings, problems, sync_on_compute=False)
        metric.update(scores, index)
        found = metric.results()
        if not found:
            reasons = ", ".join(f"{sum(score.problem == word for score in scores)} {word}" for word in problems)
            rank_zero_warn(f"no clip has {' or '.join(self.metrics)} ({kind}): {reasons or 'no reason given'}")
        return {
            entry_name(self._names[metric], kind): replace(result, details={**result.details, **self._judge})
            for metric, result in found.items()
        }

    def _of_clip(self, kind: str, scores: ClipScores) -> dict[str, float | None]:
        return {entry_name(name, kind): scores.values.get(metric) for metric, name in self._names.items()}

    def scores(self, clip: ScoredClip) -> Mapping[str, Mapping[str, float | None]]:
        """All metrics of every kind of clip."""
        return {kind: self._of_clip(kind, found) for kind, found in clip.scores.items()}

    def row(self, clip: ScoredClip) -> dict[str, object]:
        """Why a kind of clip has no score."""
        problems = {kind: found.problem for kind, found in clip.scores.items() if found.problem is not None}
        return {f"{self.metrics[0]}_problem": problems} if problems else {}


def _entry(name: str | None, metric: str) -> str:
    return f"{name}_{metric}" if name else metric
