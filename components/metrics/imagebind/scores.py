"""Scores clips by how alike picture, sound and text are to an `EmbeddingModel`.

Metrics specification, sections 5 to 7, with the settings of the published tables as defaults.

Legend for shapes: B clips, T frames, S samples, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.asva_clips import MIN_DURATION_S, Recording, clip_starts
from components.metrics.imagebind.clips import AV_BENCHMARK_MIN_S, VideoSampling, loader_sounds, video_pairs
from components.metrics.imagebind.embedding import EmbeddingModel, mean_sound, mean_video, unit_pictures, unit_text
from components.metrics.imagebind.javis import JavisWindows, avh_score, javis_score
from components.metrics.imagebind.mel import MIN_SAMPLES, at_imagebind_rate
from components.metrics.imagebind.pictures import centre_square, squashed
from components.metrics.prompts import caption_of, sound_prompt_of
from components.metrics.scorers import ClipScorer, ClipScores

Metric = Literal["ib", "ib_a", "ia", "it", "avh_score", "javis_score"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_VERSION = 2
"""Of the protocol: scores of two versions do not compare."""


class ImageBindScores(ClipScorer):
    """Cosines in the space of a model; higher is better in all of them.

    - ``ib``: the video with its sound (Harmony's IB; 0.13 to 0.18 there);
    - ``ib_a``: the sound with its prompt: the clip's scene, or the caption where that says it (Harmony's IB-A);
    - ``ia``, ``it``: frames with the sound and with the text, as ASVA has them, times 100. Over three clips
      of 2 s evenly in the video, 12 frames at 6 fps each; the first frame, which is given, does not count;
    - ``avh_score``: every frame with the whole sound; ``javis_score``: frames with the sound of their moment, of which
      the least alike count (JavisBench). Both look at all frames, which costs as much as the other four together and
      more.

    Published values differ from the definitions in three ways. ASVA's IT takes the class folder with its underscores
    for the text (``it_text: folder`` does so too); the IT in its lists of single clips is IA, while its means are right
    (ours is IT in both); and it mixes up the channels of stereo sound, which one who has mono cannot.

    Args:
        embeddings: the model; values of another than ImageBind-huge are comparable among themselves only.
        metrics: which to compute.
        video_sampling: which frames stand for the video in ``ib``: ``imagebind`` (five clips of two frames,
            JavisBench) or ``av_benchmark`` (neighbours at 0.5 fps, from 4 s on).
        num_clips: how many clips of 2 s ``ia`` and ``it`` look at.
        frame_size: height and width, or the side, that frames are trimmed to for ``ia`` and ``it``: ASVA's 256, and
            [128, 256] for The Greatest Hits; null takes them as they are.
        it_text: ``caption``, or ``folder``: what stands before the first slash of the recording's name.
        windows: where ``javis_score`` looks.
        lowest_share: share of a window's frames that ``javis_score`` counts, the least alike.
        pictures_at_once: bounds the memory; no value depends on it.

    Raises:
        InputError: if a setting is out of range.
    """

    higher_is_better: ClassVar[dict[str, bool]] = dict.fromkeys(METRICS, True)

    def __init__(
        self,
        embeddings: EmbeddingModel,
        metrics: Sequence[Metric] = ("ib", "ib_a", "ia", "it"),
        video_sampling: VideoSampling = "imagebind",
        num_clips: int = 3,
        frame_size: int | tuple[int, int] | None = 256,
        it_text: Literal["caption", "folder"] = "caption",
        windows: JavisWindows | None = None,
        lowest_share: float = 0.4,
        pictures_at_once: int = 32,
    ) -> None:
        super().__init__()
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            raise InputError(f"ImageBindScores.metrics is {list(metrics)}; give some of {', '.join(METRICS)}")
        for name, value in (("num_clips", num_clips), ("pictures_at_once", pictures_at_once)):
            if value < 1:
                raise InputError(f"ImageBindScores.{name} is {value}; it must be at least 1")
        if not 0 < lowest_share <= 1:
            raise InputError(f"ImageBindScores.lowest_share is {lowest_share}; it must lie in (0, 1]")
        self.embeddings = embeddings.requires_grad_(False)
        self.metrics = tuple(dict.fromkeys(metrics))
        self.higher_is_better = dict.fromkeys(self.metrics, True)  # type: ignore[misc]  # only what it will say
        self.video_sampling: VideoSampling = video_sampling
        self.num_clips = num_clips
        self.frame_size = frame_size
        self.it_text = it_text
        self.windows = windows or JavisWindows()
        self.lowest_share = lowest_share
        self.pictures_at_once = pictures_at_once
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked for."""
        return super().train(False)

    def identity(self) -> dict[str, object]:
        """Settings, and what the model says of itself."""
        return {
            "version": _VERSION,
            "embeddings": self.embeddings.identity(),
            "video_sampling": self.video_sampling,
            "num_clips": self.num_clips,
            "frame_size": self.frame_size,
            "it_text": self.it_text,
            "window_s": self.windows.window_s,
            "overlap_s": self.windows.overlap_s,
            "lowest_share": self.lowest_share,
        }

    @torch.no_grad()
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """One by one, so that no clip's score depends on another's.

        Raises:
            InputError: if a clip has no text where one is compared.
        """
        texts = [self._texts_of(generation.reference, row) for row in rows]
        with no_autocast(next(self.parameters(), generation.video).device):
            return [self._score(generation, row, *found) for row, found in zip(rows, texts, strict=True)]

    def _texts_of(self, batch: ClipBatch, row: int) -> tuple[str, str]:
        """What the sound and what the frames of a clip are compared with; checked before anything is computed."""
        sound_text = sound_prompt_of(batch, row, "ib_a") if self._wants("ib_a") else ""
        if not self._wants("it"):
            return sound_text, ""
        if self.it_text == "caption":
            return sound_text, caption_of(batch, row, "it")
        folder, slash, _ = batch.video_ids[row].partition("/")
        if not slash:
            raise InputError(f"recording '{batch.video_ids[row]}' lies in no class folder; set it_text to caption")
        return sound_text, folder

    def _score(self, generation: Generation, row: int, sound_text: str, frame_text: str) -> ClipScores:
        video, audio = generation.video[row].float(), generation.audio[row].float()
        sound = at_imagebind_rate(audio, generation.sample_rate)
        if len(sound) < MIN_SAMPLES:
            return ClipScores(problem="too_short")
        scores: dict[Metric, float] = {}
        whole = mean_sound(self.embeddings, loader_sounds(sound)) if self._wants("ib", "ib_a", "avh_score") else None
        if whole is not None and self._wants("ib"):
            scores |= self._ib(video, generation.fps, whole)
        if whole is not None and self._wants("ib_a"):
            scores["ib_a"] = _cosine(whole, unit_text(self.embeddings, sound_text))
        if self._wants("ia", "it"):
            scores |= self._on_asva_clips(generation, row, frame_text)
        if self._wants("avh_score", "javis_score"):
            scores |= self._of_all_frames(video, generation.fps, sound, whole)
        chosen: dict[str, float] = {name: scores[name] for name in self.metrics if name in scores}
        return ClipScores(chosen, None if chosen else "too_short")

    def _wants(self, *names: Metric) -> bool:
        return not set(names).isdisjoint(self.metrics)

    def _ib(self, video: Tensor, fps: float, sound: Tensor) -> dict[Metric, float]:
        if self.video_sampling == "av_benchmark" and len(video) / fps < AV_BENCHMARK_MIN_S - 1e-6:
            return {}
        pairs = video_pairs(video, fps, self.embeddings.image_size, self.video_sampling)
        return {"ib": _cosine(mean_video(self.embeddings, pairs, self.pictures_at_once), sound)}

    def _on_asva_clips(self, generation: Generation, row: int, text: str) -> dict[Metric, float]:
        """IA and IT; nothing for a clip below two seconds."""
        made = Recording(generation.video[row], generation.fps, generation.audio[row], generation.sample_rate)
        if made.duration_s < MIN_DURATION_S:
            return {}
        text_vector = unit_text(self.embeddings, text) if self._wants("it") else None
        found: dict[Metric, list[float]] = {"ia": [], "it": []}
        # a clip that is as long as one has the same one several times
        for start_s in dict.fromkeys(clip_starts(made.duration_s, self.num_clips)):
            clip = made.clip(start_s, self.frame_size)
            frames = asva_vectors(self.embeddings, clip.frames[1:], self.pictures_at_once)
            if self._wants("ia"):
                sound = at_imagebind_rate(clip.sound, clip.sample_rate)
                found["ia"].append(float((frames @ mean_sound(self.embeddings, [sound])).mean()))
            if text_vector is not None:
                found["it"].append(float((frames @ text_vector).mean()))
        return {name: 100 * sum(values) / len(values) for name, values in found.items() if values}

    def _of_all_frames(self, video: Tensor, fps: float, sound: Tensor, whole: Tensor | None) -> dict[Metric, float]:
        """AVHScore and JavisScore."""
        size = self.embeddings.image_size
        # resized in parts too: all frames of a long clip need not fit at once
        parts = (centre_square(part, size) for part in video.split(self.pictures_at_once))
        frames = torch.cat([unit_pictures(self.embeddings, part, self.pictures_at_once) for part in parts])
        scores: dict[Metric, float] = {}
        if whole is not None and self._wants("avh_score"):
            scores["avh_score"] = avh_score(frames, whole)
        if self._wants("javis_score"):
            windows = self.windows.of(len(video), len(sound), fps)
            sounds = [mean_sound(self.embeddings, loader_sounds(sound[slice(*window.samples)])) for window in windows]
            scores["javis_score"] = javis_score(frames, torch.stack(sounds), windows, self.lowest_share)
        return scores


def asva_vectors(model: EmbeddingModel, frames: Tensor, at_once: int) -> Tensor:
    """Unit vectors ``[T, D]`` of frames ``[T, 3, H, W]`` as ASVA hands them to ImageBind."""
    return unit_pictures(model, squashed(frames, model.image_size), at_once)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one, other, dim=0))
