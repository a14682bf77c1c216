"""Sync-C and Sync-D of everything a model generates, beside their ceiling and their floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm.auto import tqdm

from callbacks.evaluation import CHANCE, GENERATED, REAL, entry_name, gathered
from callbacks.judge import JudgeCallback, mismatched, recording_indices, remembered
from components.contracts import ClipBatch, Generation, MetricResult
from components.metrics.clip_means import ClipMeans
from components.metrics.syncnet.clip_scores import PROBLEMS, SCORES, clip_scores
from components.metrics.syncnet.scorer import LipTrack, SyncNetScorer, SyncScore
from components.weights.identity import sha256_of_facts


@dataclass(frozen=True)
class JudgedClip:
    """The scores of one clip.

    Attributes:
        id: name of the clip.
        video_id: the recording it was cut from.
        scores: kind of clip (``generated``, a variant's name, ``real``) -> how well its picture and sound agree.
        sound: ``[N, D]`` the embedded sound of the generation, for other clips to be compared with.
    """

    id: str
    video_id: str
    scores: Mapping[str, SyncScore]
    sound: Tensor

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of video that have a score."""
        return tuple(self.scores)


class SyncConfidenceCallback(JudgeCallback[JudgedClip]):
    """Scores picture against sound of every generation with a frozen SyncNet.

    Reports Sync-C (higher is better) and Sync-D (lower is better) with 95 % intervals over recordings, under these
    names in results, logs and monitors alike:

    - ``sync_c``, ``sync_d``: the generation; ``sync_c_<variant>``: each of its variants (``no_synccfg`` ...);
    - ``sync_c_real``: the real clips, the ceiling under this SyncNet;
    - ``sync_c_chance``: the floor. With all clips of the set in the order of their ids, the generated video of a clip
      is scored against the sound of the next clip's generation (around the end of the list) that comes from another
      recording. No random numbers are involved, and the pairing does not depend on batches or ranks. Left out where
      all clips come from one recording.

    Clips without a face and clips below the scorer's ``min_duration_s`` are counted in each entry and not scored; where
    that leaves none, the entry is left out with a warning. Scores are comparable only under the same SyncNet and the
    same way to the faces, so names, settings and the SHA-256 of weights go with each entry. Every video is embedded
    once, whatever it is compared with; the scores of real clips are kept between the validations of one run.

    Args:
        scorer: the judge; frozen here, never part of the trained model.
        name: what entries begin with instead of ``sync``, to have two judges side by side.

    Raises:
        InputError: if ``name`` is no word.
    """

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """``sync_c`` and ``sync_d`` are what the metric calls its two scores."""
        return tuple(f"{arguments.get('name') or 'sync'}{score.removeprefix('sync')}" for score in SCORES)

    def __init__(self, scorer: SyncNetScorer, name: str = "sync") -> None:
        names = self.metrics_of({"name": name})
        super().__init__(scorer, names, names[1:])  # Sync-D is a distance
        self.name = name
        self.scorer = scorer
        judge = scorer.identity()
        # the same weights may be asked for by several names
        self._judge = {**judge, "judge": sha256_of_facts({**judge, "syncnet": None})[:16]}
        self._lips: dict[str, list[LipTrack]] = {}
        self._real: dict[str, SyncScore] = {}

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Moves the judge to where the videos are."""
        super().start(trainer, module)
        self._lips = {}

    def judged(self, generation: Generation, rows: Sequence[int]) -> list[JudgedClip]:
        """Scores the generation, each variant and the real clip."""
        batch = generation.reference
        ids = [batch.ids[row] for row in rows]
        made = {GENERATED: generation, **generation.variants}
        scores: dict[str, list[SyncScore]] = {}
        known = self.scorer.boxes(batch, rows)
        sounds = self.scorer.sounds(generation.audio[rows], generation.sample_rate)
        with tqdm(made.items(), self.name, leave=False, unit="set", disable=not self._show_bar) as bar:
            for name, item in bar:
                lips = self.scorer.lips(item.video[rows], item.fps, known)
                # variants of an audio-to-video model share its driving sound
                same = item.audio is generation.audio
                own = sounds if same else self.scorer.sounds(item.audio[rows], item.sample_rate)
                scores[name] = [self.scorer.score(tracks, sound) for tracks, sound in zip(lips, own, strict=True)]
                if item is generation:
                    kept = ([track.cpu() for track in tracks] for tracks in lips)
                    self._lips |= dict(zip(ids, kept, strict=True))
        if batch.video.shape[1] > 1:
            scores[REAL] = self._score_real(batch, rows)
        return [
            JudgedClip(
                id=batch.ids[row],
                video_id=batch.video_ids[row],
                scores={name: found[index] for name, found in scores.items()},
                # a copy: a row's view would keep the batch
                sound=sounds[index].cpu().clone(),
            )
            for index, row in enumerate(rows)
        ]

    def _score_real(self, batch: ClipBatch, rows: Sequence[int]) -> list[SyncScore]:
        def score(new: list[int]) -> list[SyncScore]:
            wanted = [rows[index] for index in new]
            known = self.scorer.boxes(batch, wanted)
            lips = self.scorer.lips(batch.video[wanted].float() / 255, batch.fps, known)
            sounds = self.scorer.sounds(batch.audio[wanted], batch.sample_rate)
            return [self.scorer.score(tracks, sound) for tracks, sound in zip(lips, sounds, strict=True)]

        return remembered(self._real, [batch.ids[row] for row in rows], score)

    def chance(self, trainer: Trainer, clips: Sequence[JudgedClip]) -> Mapping[str, MetricResult]:
        """Scores of generated videos with the sounds of other recordings."""
        # pairs cross ranks: each rank has all sounds and scores its own videos
        dubbed = {
            clip.id: self.scorer.score(self._lips[clip.id], partner.sound)
            for clip, partner in mismatched(clips)
            if clip.id in self._lips
        }
        self._lips = {}
        scores = dict(gathered(trainer, list(dubbed.items())))
        scored = [clip for clip in clips if clip.id in scores]
        for clip in scored:
            self.has_chance(clip, self._of_clip(CHANCE, scores[clip.id]))
        return self._entries(CHANCE, scored, [scores[clip.id] for clip in scored]) if scored else {}

    def entries(self, kind: str, clips: Sequence[JudgedClip]) -> Mapping[str, MetricResult]:
        """Sync-C and Sync-D of one kind of clip, if any clip has a score."""
        return self._entries(kind, clips, [clip.scores[kind] for clip in clips])

    def _entries(
        self, kind: str, clips: Sequence[JudgedClip], scores: Sequence[SyncScore]
    ) -> Mapping[str, MetricResult]:
        num_recordings, index = recording_indices(clips)
        # every rank holds all scores, so there is nothing to synchronise
        metric = ClipMeans(SCORES, num_recordings, PROBLEMS, sync_on_compute=False)
        metric.update([clip_scores(score) for score in scores], index)
        found = metric.results()
        if not found:
            faceless = sum(score.problem == "no_face" for score in scores)
            rank_zero_warn(
                f"no clip has {' and '.join(self.metrics)} ({kind}): {faceless} have no face and "
                f"{len(scores) - faceless} are below the scorer's min_duration_s, {self.scorer.min_duration_s:g} s"
            )
            return {}
        return {
            entry_name(metric, kind): replace(found[score], details={**found[score].details, **self._judge})
            for metric, score in zip(self.metrics, SCORES, strict=True)
        }

    def _of_clip(self, kind: str, score: SyncScore) -> dict[str, float | None]:
        found = (score.sync_c, score.sync_d) if score.problem is None else (None, None)
        return dict(zip((entry_name(metric, kind) for metric in self.metrics), found, strict=True))

    def scores(self, clip: JudgedClip) -> Mapping[str, Mapping[str, float | None]]:
        """Sync-C and Sync-D of every kind of clip."""
        return {kind: self._of_clip(kind, score) for kind, score in clip.scores.items()}

    def row(self, clip: JudgedClip) -> dict[str, object]:
        """Offset and problem of every kind of clip."""
        return {
            "sync_offset_s": {kind: None if score.problem else score.offset_s for kind, score in clip.scores.items()},
            "sync_problem": {kind: score.problem for kind, score in clip.scores.items()},
        }
