"""CycleSync of everything a model generates, beside its ceiling and its floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm.auto import tqdm

from callbacks.evaluation import CHANCE, GENERATED, REAL, entry_name
from callbacks.judge import JudgeCallback, mismatched, recording_indices, remembered
from components.contracts import ClipBatch, Generation, MetricResult, V2AModel, clip_generator
from components.errors import InputError
from components.metrics.cyclesync.metric import (
    CycleSync,
    UndefinedPolicy,
    common_duration_s,
    cyclesync_per_clip,
    mean_of_samples,
)
from components.metrics.cyclesync.onsets import OnsetDetector
from components.v2a.disturbances import DISTURBANCES, fooling_clip
from components.weights.identity import sha256_of_facts, sha256_of_tensors

Onsets = list[list[float]]
"""Onset times in seconds, one list per sound that was drawn for a clip."""


@dataclass(frozen=True)
class JudgedClip:
    """The onsets of one clip in seconds.

    Attributes:
        id: name of the clip.
        video_id: the recording it was cut from.
        duration_s: how much of it is compared.
        sound_onsets: kind of video (``generated``, a variant's name, ``real``) -> onsets of the sound that belongs to
            it: the driving sound, or the one generated with it, or the real one.
        inferred: kind of video -> onsets of the sounds inferred from it.
        true: known onsets, or None.
    """

    id: str
    video_id: str
    duration_s: float
    sound_onsets: Mapping[str, list[float]]
    inferred: Mapping[str, Onsets]
    true: list[float] | None

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of video that a sound was inferred from."""
        return tuple(self.inferred)


class CycleSyncCallback(JudgeCallback[JudgedClip]):
    """Infers sound from every video with a frozen V2A model and scores its onsets against those of its sound.

    The sound of a generated video is the one that drove it, or the one generated with it.

    Reports, x100 with 95 % intervals over recordings and under these names in results, logs and monitors alike:

    - ``cyclesync``: the generation; ``cyclesync_<variant>``: each of its variants (``w0``, ``off_sync`` ...);
    - ``cyclesync_real``: the real videos, the ceiling under this V2A model;
    - ``cyclesync_chance``: the floor. With all clips of the set in the order of their ids, the sound inferred from
      the generation of a clip is scored against the driving sound of the next clip (around the end of the list) that
      comes from another recording. Every clip is used once on one side; no random numbers are involved, and the
      pairing does not depend on batches or ranks. Left out where all clips come from one recording.

    Scores are comparable only under the same V2A model, so its class, its settings and the SHA-256 of its weights (of
    class and settings, where it has none) go with each entry, and a digest of all that a score depends on.
    The onsets of driving sounds and real videos are kept between the validations of one run.

    With ``fooling`` the judge itself is judged: ``cyclesync_fooled_patch`` and one such entry for each of
    `components.v2a.disturbances.DISTURBANCES` score real first frames that stay frozen, with a flash at each onset of
    the sound and nothing that moves. A judge that beats ``cyclesync_chance`` there can be fooled by bad pictures.

    Args:
        v2a: the judge; frozen here, never part of the trained model.
        tolerance_s: how far apart matched onsets may be, in seconds.
        extra_tolerances_s: further tolerances reported beside it.
        num_samples: sounds drawn per video; their scores are averaged.
        seed: together with a clip's id it seeds the sounds.
        undefined: what a clip counts as when neither sound has an onset.
        detector: the onset detector; None takes the standard one.
        name: what ``cyclesync`` is called instead, to have two judges, or two tolerances, side by side.
        fooling: also score frozen pictures that flash at the onsets, once for every clip.

    Raises:
        InputError: if ``num_samples`` is below 1 or ``name`` is no word.
    """

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The metric is called as the callback."""
        return (arguments.get("name") or "cyclesync",)

    def __init__(
        self,
        v2a: V2AModel,
        tolerance_s: float = 0.05,
        extra_tolerances_s: Sequence[float] = (1 / 24, 0.1, 0.2),
        num_samples: int = 1,
        seed: int = 0,
        undefined: UndefinedPolicy = "skip",
        detector: OnsetDetector | None = None,
        name: str = "cyclesync",
        fooling: bool = False,
    ) -> None:
        super().__init__(v2a, (name,))
        if num_samples < 1:
            raise InputError(f"CycleSyncCallback.num_samples is {num_samples}; it must be at least 1")
        self.v2a = v2a
        self.tolerance_s = tolerance_s
        self.extra_tolerances_s = tuple(extra_tolerances_s)
        self.num_samples = num_samples
        self.seed = seed
        self.undefined: UndefinedPolicy = undefined
        self.detector = detector or OnsetDetector()
        self.name = name
        self.fooling = fooling
        self._v2a = f"{type(v2a).__module__}.{type(v2a).__qualname__}"
        # a model without weights is what its class and its settings make it
        settings, tensors = v2a.identifying_settings(), v2a.state_dict()
        weights = {key: item.reshape(-1) for key, item in tensors.items()}
        judge = {
            "v2a": self._v2a,
            "v2a_settings": settings,
            "v2a_sha256": sha256_of_tensors(weights) if weights else sha256_of_facts({self._v2a: settings}),
        }
        drawn = {"num_samples": num_samples, "seed": seed}
        others = {"tolerance_s": tolerance_s, "undefined": undefined, "detector": asdict(self.detector)}
        self._judge = {**judge, "judge": sha256_of_facts({**judge, **drawn, **others})[:16]}
        self._real: dict[tuple[str, float], Onsets] = {}
        self._fooled: dict[tuple[str, str, float], Onsets] = {}
        self._real_onsets: dict[tuple[str, float], list[float]] = {}

    def judged(self, generation: Generation, rows: Sequence[int]) -> list[JudgedClip]:
        """Onsets of the driving sound, the generation, each variant and the real video."""
        batch = generation.reference
        videos = {GENERATED: generation.video, **{name: item.video for name, item in generation.variants.items()}}
        duration_s = common_duration_s(
            generation.video.shape[1], generation.fps, (generation.audio, generation.sample_rate)
        )
        inferred: dict[str, list[Onsets]] = {}
        with tqdm(videos.items(), self.name, leave=False, unit="set", disable=not self._show_bar) as bar:
            for name, video in bar:
                inferred[name] = self._infer(video[rows], generation.fps, batch, rows, duration_s)
        # a first frame alone, or a silent clip, has no ceiling
        if batch.video.shape[1] > 1 and batch.audio.shape[1]:
            inferred[REAL] = self._infer_real(batch, rows, duration_s)
        sounds = self._listen(generation, rows, duration_s)
        if self.fooling and REAL in inferred:
            for kind in DISTURBANCES:
                name = f"fooled_{kind}"
                inferred[name] = self._infer_fooled(kind, batch, rows, sounds[REAL], duration_s)
                sounds[name] = sounds[REAL]
        return [
            JudgedClip(
                id=batch.ids[row],
                video_id=batch.video_ids[row],
                duration_s=duration_s,
                sound_onsets={kind: sounds[kind][index] for kind in inferred},
                inferred={name: onsets[index] for name, onsets in inferred.items()},
                true=None if batch.onsets is None else list(batch.onsets[row]),
            )
            for index, row in enumerate(rows)
        ]

    def _infer(
        self, video: Tensor, fps: float, batch: ClipBatch, rows: Sequence[int], duration_s: float
    ) -> list[Onsets]:
        """Onsets of the sounds drawn for each video ``[B, T, 3, H, W]`` in [0, 1]."""
        captions = [batch.captions[row] for row in rows]
        drawn = []
        for sample in range(self.num_samples):
            # seeded by clip: the same sounds in every validation, whatever the batch
            generators = [clip_generator(batch.ids[row], self.seed + sample) for row in rows]
            with torch.autocast(video.device.type, enabled=False):
                sound, rate = self.v2a(video.float(), fps, captions, generators)
            # a shorter sound would shorten the comparison in silence
            if sound.shape[-1] / rate < duration_s - 1 / fps:
                raise InputError(
                    f"the V2A model {self._v2a} made {sound.shape[-1] / rate:.2f} s of sound for "
                    f"{duration_s:.2f} s of video ({batch.ids[rows[0]]}); it has to cover the whole clip"
                )
            drawn.append(self.detector(sound, rate, duration_s))
        return [list(onsets) for onsets in zip(*drawn, strict=True)]

    def _infer_real(self, batch: ClipBatch, rows: Sequence[int], duration_s: float) -> list[Onsets]:
        def infer(new: list[int]) -> list[Onsets]:
            wanted = [rows[index] for index in new]
            return self._infer(batch.video[wanted].float() / 255, batch.fps, batch, wanted, duration_s)

        return remembered(self._real, [(batch.ids[row], duration_s) for row in rows], infer)

    def _infer_fooled(
        self, kind: str, batch: ClipBatch, rows: Sequence[int], onsets: Sequence[Sequence[float]], duration_s: float
    ) -> list[Onsets]:
        """Onsets inferred from frozen first frames with a disturbance of one kind at each of the sound's ``onsets``."""

        def infer(new: list[int]) -> list[Onsets]:
            wanted = [rows[index] for index in new]
            clips = []
            for index, row in zip(new, wanted, strict=True):
                drawn_from = clip_generator(f"{kind} {batch.ids[row]}", self.seed)
                frame = batch.video[row, 0].float() / 255
                clips.append(fooling_clip(frame, batch.video.shape[1], batch.fps, onsets[index], kind, drawn_from))
            return self._infer(torch.stack(clips), batch.fps, batch, wanted, duration_s)

        return remembered(self._fooled, [(kind, batch.ids[row], duration_s) for row in rows], infer)

    def _listen(self, generation: Generation, rows: Sequence[int], duration_s: float) -> dict[str, list[list[float]]]:
        """Onsets of the sound of every kind of video, one list per clip."""
        batch = generation.reference
        sounds = {GENERATED: generation, **generation.variants}
        sound_onsets: dict[str, list[list[float]]] = {}
        if batch.audio.shape[1]:
            sound_onsets[REAL] = self._listen_to_real(batch, rows, duration_s)
        for kind, made in sounds.items():
            # the same object: audio-to-video models hand the driving sound through
            given = made.audio is batch.audio  # it drove the generation
            sound_onsets[kind] = (
                sound_onsets[REAL] if given else self.detector(made.audio[rows], made.sample_rate, duration_s)
            )
        return sound_onsets

    def _listen_to_real(self, batch: ClipBatch, rows: Sequence[int], duration_s: float) -> list[list[float]]:
        def listen(new: list[int]) -> list[list[float]]:
            return self.detector(batch.audio[[rows[index] for index in new]], batch.sample_rate, duration_s)

        return remembered(self._real_onsets, [(batch.ids[row], duration_s) for row in rows], listen)

    def entries(self, kind: str, clips: Sequence[JudgedClip]) -> Mapping[str, MetricResult]:
        """CycleSync of one kind of video, each by its own sound."""
        return {entry_name(self.name, kind): self._score([(clip, clip) for clip in clips], kind)}

    def chance(self, trainer: Trainer, clips: Sequence[JudgedClip]) -> Mapping[str, MetricResult]:
        """CycleSync of generated videos by the sounds of other recordings."""
        pairs = mismatched(clips)
        name = entry_name(self.name, CHANCE)
        for clip, judge in pairs:
            self.has_chance(clip, {name: self._score_of_clip(judge, clip, GENERATED)})
        return {name: self._score(pairs, GENERATED)} if pairs else {}

    def _score(self, pairs: Sequence[tuple[JudgedClip, JudgedClip]], kind: str) -> MetricResult:
        """CycleSync of ``(clip whose video is judged, clip whose sound it is judged by)``."""
        num_recordings, index = recording_indices([clip for clip, _ in pairs])
        # every rank holds all clips, so there is nothing to synchronise
        metric = CycleSync(
            num_recordings, self.tolerance_s, self.extra_tolerances_s, self.undefined, sync_on_compute=False
        )
        drawn = [_compared(judge, clip, kind, n) for clip, judge in pairs for n in range(self.num_samples)]
        sound, video = zip(*drawn, strict=True)
        metric.update(sound, video, index, num_samples=self.num_samples)
        found = metric.result()
        details = {**found.details, "num_samples": self.num_samples, **self._judge}
        return MetricResult(found.value, found.ci95, found.n, details)

    def _score_of_clip(self, judge: JudgedClip, clip: JudgedClip, kind: str) -> float | None:
        """CycleSync of one clip's video by the sound of another, or its own; None where it does not count."""
        pairs = [_compared(judge, clip, kind, sample) for sample in range(self.num_samples)]
        sound, video = zip(*pairs, strict=True)
        (score,) = mean_of_samples(cyclesync_per_clip(sound, video, [self.tolerance_s]), self.undefined)
        if score is None and self.undefined != "skip":
            score = float(self.undefined == "one")
        return None if score is None else 100 * score

    def scores(self, clip: JudgedClip) -> Mapping[str, Mapping[str, float | None]]:
        """Score of every kind of video."""
        return {kind: {entry_name(self.name, kind): self._score_of_clip(clip, clip, kind)} for kind in clip.inferred}

    def row(self, clip: JudgedClip) -> dict[str, object]:
        """Onsets of every kind of video."""
        sound_onsets = {kind: clip.sound_onsets[kind] for kind in clip.inferred}
        one_sound = all(onsets == sound_onsets[GENERATED] for onsets in sound_onsets.values())
        tracks = {"true": clip.true} | ({"driving": sound_onsets[GENERATED]} if one_sound else {})
        return {
            "duration_s": clip.duration_s,
            "tolerance_s": self.tolerance_s,
            "onsets_by": self.name,
            "onsets": tracks | {kind: onsets[0] for kind, onsets in clip.inferred.items()},
            "sound_onsets": None if one_sound else sound_onsets,
        }


def _compared(judge: JudgedClip, clip: JudgedClip, kind: str, sample: int) -> tuple[list[float], list[float]]:
    """Onsets of ``judge``'s sound and of those inferred from ``clip``, in the time both cover."""
    # a clip is compared with another's sound as far as both reach
    end_s = min(judge.duration_s, clip.duration_s)
    sound, video = judge.sound_onsets[kind], clip.inferred[kind][sample]
    return [time for time in sound if time <= end_s], [time for time in video if time <= end_s]
