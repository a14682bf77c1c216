"""What rendered scenes truly show, beside what a learnt judge hears in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.evaluation import CHANCE, GENERATED, REAL, entry_name
from callbacks.judge import JudgeCallback, mismatched, recording_indices, remembered
from components.contracts import ClipBatch, Generation, MetricResult, VideoCodec
from components.errors import InputError
from components.metrics.clip_means import ClipMeans
from components.metrics.cyclesync.metric import CycleSync, cyclesync_per_clip
from components.metrics.cyclesync.onsets import OnsetDetector
from components.metrics.scorers import ClipScores
from components.metrics.truth.events import seen_events
from components.metrics.truth.pictures import MOVING, picture_scores, psnr_by_unit
from components.metrics.truth.tracker import Thing, Track, path_error, thing_of, track
from components.v2a.bursts import BURST_DELAY_S
from components.weights.identity import sha256_of_facts

STILL = "still"
CODEC = "codec"
REAL_SOUND = "real_sound"

_SYNC = "truth_sync"
_MEANS = ("path_error", "found", "psnr", "psnr_moving", "ssim")
_PERCENT = ("path_error", "found", "ssim")


@dataclass(frozen=True)
class TrueClip:
    """What was found in one clip.

    Attributes:
        id: name of the clip.
        video_id: the recording it was cut from.
        duration_s: how much of it is compared.
        true: known onsets in seconds.
        events: kind -> times of the events that are seen, or heard where the pictures were given.
        wanted: kind -> times they are compared with.
        means: kind -> score -> value; None where the clip has none.
        units: kind -> PSNR of every latent frame after the first, where pictures are compared.
    """

    id: str
    video_id: str
    duration_s: float
    true: list[float]
    events: Mapping[str, list[float]]
    wanted: Mapping[str, list[float]]
    means: Mapping[str, Mapping[str, float | None]]
    units: Mapping[str, list[float]]

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of video (and of sound) that were judged."""
        return tuple(self.events)


@dataclass(frozen=True)
class _Seen:
    """A clip of known pictures: real, frozen, or through the codec: found once for all validations."""

    track: Track
    events: list[float]
    means: Mapping[str, float | None]
    units: list[float]


class PictureTruth(JudgeCallback[TrueClip]):
    """Looks for ball, mallet head and mouth in the pictures, where scenes are rendered and their truth is known.

    Reports, with 95 % intervals over recordings, and under the names of all variants:

    - ``truth_sync``: events that are seen against the true onsets, matched as CycleSync matches, x100. Where the sound
      was generated as well it is the one the pictures must agree with; where the pictures were given, the onsets heard
      in the generated sound are compared with the true ones;
    - ``found``: share of the frames in which the thing is found, x100;
    - ``path_error``: mean distance from where it is in the real clip, in per cent of its way (see `path_error`);
    - ``psnr``, ``psnr_moving`` in dB and ``ssim`` x100 against the real clip (see `picture_scores`); the entry ``psnr``
      has the mean of every latent frame of the model's codec beside it (``by_unit``), so that drift shows.

    The last two are left out where the sound was generated: another sound moves the pictures otherwise.
    ``_real`` and ``_codec`` (real clips through the model's video codec) are ceilings, ``_still`` (the first frame,
    frozen) is the floor, ``truth_sync_chance`` compares with other recordings, and ``truth_sync_real_sound`` is the
    ceiling of what is heard. All but chance are found once for every clip, not in every validation.

    Args:
        tolerance_s: how far apart matched events may be, in seconds.
        extra_tolerances_s: further tolerances reported beside it.
        detector: finds onsets in generated sounds; None takes the standard one.
        name: put before every metric, with an underscore, to have two of these callbacks side by side.
    """

    needs_reference = True

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """``truth_sync`` and the others, each behind the name."""
        name = arguments.get("name")
        return tuple(f"{name}_{metric}" if name else metric for metric in (_SYNC, *_MEANS))

    def __init__(
        self,
        tolerance_s: float = 0.05,
        extra_tolerances_s: Sequence[float] = (1 / 24, 0.1, 0.2),
        detector: OnsetDetector | None = None,
        name: str = "",
    ) -> None:
        names = dict(zip((_SYNC, *_MEANS), self.metrics_of({"name": name}), strict=True))
        # colours and shapes: nothing that learns
        super().__init__(nn.Identity(), tuple(names.values()), [names["path_error"]])
        self.tolerance_s = tolerance_s
        self.extra_tolerances_s = tuple(extra_tolerances_s)
        self.detector = detector or OnsetDetector()
        self.name = name
        facts = {"tolerance_s": tolerance_s, "detector": asdict(self.detector), "moving": MOVING, "version": 1}
        self._judge = {"judge": sha256_of_facts(facts)[:16]}
        self._names = names
        self._codec: VideoCodec | None = None
        self._known: dict[tuple[str, str, int], _Seen] = {}
        self._real_sounds: dict[tuple[str, float], list[float]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure that the data know what they show.

        Raises:
            InputError: if they do not.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        # predictions are judged by nobody
        if stage != "predict" and not getattr(data, "has_known_scenes", False):
            raise InputError(
                f"callbacks.PictureTruth needs rendered scenes whose truth is known, and {type(data).__name__} has "
                "none: use ProceduralClips or ProceduralSpeech, or take the callback out (--callbacks.picture_truth "
                "null in the quickstarts)"
            )
        super().setup(trainer, pl_module, stage)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Takes note of the model's video codec."""
        super().start(trainer, module)
        found = next((getattr(module, name, None) for name in ("codec", "video_codec") if hasattr(module, name)), None)
        self._codec = found if isinstance(found, VideoCodec) else None

    def judged(self, generation: Generation, rows: Sequence[int]) -> list[TrueClip]:
        """Events, path and pictures of every kind."""
        batch = generation.reference
        kinds = {GENERATED: generation, **generation.variants}
        frames = generation.video.shape[1]
        seconds = frames / generation.fps
        pictures = batch.video[rows, :frames].float() / 255  # in the order of ``rows``
        heard = {
            kind: dict(zip(rows, self._heard(made, rows, seconds), strict=True))
            for kind, made in kinds.items()
            if made.audio is not batch.audio
        }
        known = self._known_kinds(batch, rows, pictures)
        real_sounds = self._listen_to_real(batch, rows, seconds) if heard else []
        clips = []
        for index, row in enumerate(rows):
            real = known[REAL][index]
            true = [time for time in _true_onsets(batch, row) if time <= seconds]
            events = {kind: seen[index].events for kind, seen in known.items()}
            wanted = dict.fromkeys(events, true)
            means: dict[str, Mapping[str, float | None]] = {kind: seen[index].means for kind, seen in known.items()}
            units = {kind: seen[index].units for kind, seen in known.items()}
            if heard:
                events[REAL_SOUND], wanted[REAL_SOUND], means[REAL_SOUND] = real_sounds[index], true, {}
            for kind, made in kinds.items():
                own = heard[kind][row] if kind in heard else None
                if own is not None and torch.equal(made.video[row], pictures[index]):
                    # the pictures were given: what is heard is judged
                    events[kind], wanted[kind], means[kind] = own, true, {}
                    continue
                seen = self._look(
                    made.video[row].cpu(), pictures[index].cpu(), _thing(batch, row), made.fps, real.track
                )
                events[kind], wanted[kind] = seen.events, true if own is None else own
                means[kind] = seen.means if own is None else {"found": seen.means["found"]}
                units[kind] = seen.units if own is None else []
            clips.append(TrueClip(batch.ids[row], batch.video_ids[row], seconds, true, events, wanted, means, units))
        return clips

    def _known_kinds(self, batch: ClipBatch, rows: Sequence[int], pictures: Tensor) -> dict[str, list[_Seen]]:
        """What real clips, frozen ones and those through the codec show, each found once."""
        frames = pictures.shape[1]

        def look(kind: str, made: Tensor, new: list[int]) -> list[_Seen]:
            found = []
            for video, index in zip(made.cpu(), new, strict=True):
                row = rows[index]
                real = self._known.get((REAL, batch.ids[row], frames))
                thing = _thing(batch, row)
                found.append(
                    self._look(video, pictures[index].cpu(), thing, batch.fps, None if real is None else real.track)
                )
            return found

        def known(kind: str) -> list[_Seen]:
            made = self._KNOWN[kind]

            def find(new: list[int]) -> list[_Seen]:
                return look(kind, made(self, pictures[new]), new)

            return remembered(self._known, [(kind, batch.ids[row], frames) for row in rows], find)

        # the real clip first: the others' paths are measured from its own
        return {kind: known(kind) for kind in (REAL, STILL, *([CODEC] if self._codec else []))}

    def _look(self, video: Tensor, pictures: Tensor, thing: Thing, fps: float, real: Track | None) -> _Seen:
        """Track, events and scores of one clip beside the real ``pictures`` ``[T, 3, H, W]``; None for the real one."""
        found = track(video, pictures[0], thing)
        scores: dict[str, float | None] = {"found": found.found.float().mean().item()}
        units: list[float] = []
        if real is not None:
            scores |= {"path_error": path_error(found, real), **picture_scores(video, pictures)}
            units = psnr_by_unit(video, pictures, self._codec.temporal_factor if self._codec else 1)
        percent = {
            name: value if value is None or name not in _PERCENT else 100 * value for name, value in scores.items()
        }
        return _Seen(found, seen_events(found, fps), percent, units)

    def _as_it_is(self, real: Tensor) -> Tensor:
        return real

    def _frozen(self, real: Tensor) -> Tensor:
        return real[:, :1].expand_as(real)

    def _round_trip(self, real: Tensor) -> Tensor:
        """Real clips ``[B, T, 3, H, W]`` as the codec gives them back."""
        assert self._codec is not None
        with torch.autocast(real.device.type, enabled=False):
            return self._codec.decode(self._codec.encode(2 * real - 1)).float().add(1).div(2).clamp(0, 1)

    _KNOWN: ClassVar = {REAL: _as_it_is, STILL: _frozen, CODEC: _round_trip}

    def _heard(self, made: Generation, rows: Sequence[int], seconds: float) -> list[list[float]]:
        return self._listen(made.audio[rows], made.sample_rate, seconds)

    def _listen_to_real(self, batch: ClipBatch, rows: Sequence[int], seconds: float) -> list[list[float]]:
        def listen(new: list[int]) -> list[list[float]]:
            return self._listen(batch.audio[[rows[index] for index in new]], batch.sample_rate, seconds)

        return remembered(self._real_sounds, [(batch.ids[row], seconds) for row in rows], listen)

    def _listen(self, audio: Tensor, rate: int, seconds: float) -> list[list[float]]:
        # truth does not go through the detector, whose delay would stay
        return [[max(0.0, time - BURST_DELAY_S) for time in row] for row in self.detector(audio, rate, seconds)]

    def entries(self, kind: str, clips: Sequence[TrueClip]) -> Mapping[str, MetricResult]:
        """``truth_sync`` of one kind, and the means that it has."""
        entries = {entry_name(self._names[_SYNC], kind): self._sync([(clip, clip) for clip in clips], kind)}
        for metric in _MEANS:
            pairs = [(clip, clip.means[kind].get(metric)) for clip in clips]
            known = [(clip, value) for clip, value in pairs if value is not None]
            if known:
                entries[entry_name(self._names[metric], kind)] = self._mean(known)
        name = entry_name(self._names["psnr"], kind)
        if name in entries:
            by_unit = np.mean([clip.units[kind] for clip in clips], axis=0).round(2).tolist()
            entries[name] = replace(entries[name], details={"by_unit": by_unit, **entries[name].details})
        return entries

    def _sync(self, pairs: Sequence[tuple[TrueClip, TrueClip]], kind: str) -> MetricResult:
        """Agreement of ``(clip whose pictures are judged, clip whose events are wanted)``."""
        count, index = recording_indices([clip for clip, _ in pairs])
        metric = CycleSync(count, self.tolerance_s, self.extra_tolerances_s, "skip", sync_on_compute=False)
        metric.update([other.wanted[kind] for _, other in pairs], [clip.events[kind] for clip, _ in pairs], index)
        found = metric.result()
        return MetricResult(found.value, found.ci95, found.n, {**found.details, **self._judge})

    def _mean(self, known: Sequence[tuple[TrueClip, float]]) -> MetricResult:
        count, index = recording_indices([clip for clip, _ in known])
        metric = ClipMeans(["mean"], count, sync_on_compute=False)
        metric.update([ClipScores({"mean": value}) for _, value in known], index)
        found = metric.results()["mean"]
        return replace(found, details={**found.details, **self._judge})

    def chance(self, trainer: Trainer, clips: Sequence[TrueClip]) -> Mapping[str, MetricResult]:
        """``truth_sync`` of generated clips by the events of other recordings."""
        pairs = mismatched(clips)
        name = entry_name(self._names[_SYNC], CHANCE)
        for clip, other in pairs:
            self.has_chance(clip, {name: self._sync_of_clip(other, clip, GENERATED)})
        return {name: self._sync(pairs, GENERATED)} if pairs else {}

    def _sync_of_clip(self, other: TrueClip, clip: TrueClip, kind: str) -> float | None:
        ((score,),) = cyclesync_per_clip([other.wanted[kind]], [clip.events[kind]], [self.tolerance_s])
        return None if score is None else 100 * score

    def scores(self, clip: TrueClip) -> Mapping[str, Mapping[str, float | None]]:
        """All scores of every kind."""
        found: dict[str, dict[str, float | None]] = {}
        for kind in clip.kinds:
            found[kind] = {entry_name(self._names[_SYNC], kind): self._sync_of_clip(clip, clip, kind)}
            found[kind] |= {entry_name(self._names[metric], kind): value for metric, value in clip.means[kind].items()}
        return found

    def row(self, clip: TrueClip) -> dict[str, object]:
        """Events of every kind."""
        one = all(times == clip.true for times in clip.wanted.values())
        return {
            "duration_s": clip.duration_s,
            "tolerance_s": self.tolerance_s,
            "onsets_by": self._names[_SYNC],
            "onsets": ({"driving": clip.true} if one else {"true": clip.true}) | dict(clip.events),
            "sound_onsets": None if one else {**clip.wanted, "true": clip.true},
        }


def _thing(batch: ClipBatch, row: int) -> Thing:
    thing = thing_of(batch.captions[row])
    if thing is None:
        raise InputError(
            f"clip {batch.ids[row]} is called '{batch.captions[row]}', which names no ball, mallet or face: truth is "
            "known of rendered scenes alone"
        )
    return thing


def _true_onsets(batch: ClipBatch, row: int) -> tuple[float, ...]:
    if batch.onsets is None:
        raise InputError(f"clip {batch.ids[row]} has no true onsets, which callbacks.PictureTruth compares with")
    return tuple(batch.onsets[row])
