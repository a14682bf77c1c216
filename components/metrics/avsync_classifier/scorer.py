"""Scores clips with RelSync and AlignSync: is a generated video as much in step with its sound as the real one?

Metrics specification, sections 5 and 14.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Self

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.asva_clips import MIN_DURATION_S, AsvaClip, Recording, clip_starts
from components.metrics.avsync_classifier.model import AVSyncClassifier
from components.metrics.avsync_classifier.sync import alignsync, relsync
from components.metrics.imagebind.embedding import EmbeddingModel, mean_sound
from components.metrics.imagebind.mel import at_imagebind_rate, imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised, squashed
from components.metrics.imagebind.scores import asva_vectors
from components.metrics.scorers import ClipScorer, ClipScores
from components.weights.identity import identity_of

IMAGE_SIZE = 224


class RelAlignSync(ClipScorer):
    """RelSync and, with an embedding model, AlignSync, both times 100 as papers print them.

    The generated video with its sound is compared with the real video with the real sound, over clips of 2 s evenly in
    both. 50 is as good as real in RelSync; real clips get 25 in AlignSync.

    ASVA's values of stereo recordings come from sound whose channels were mixed up; mono sound cannot have that.

    Args:
        classifier: the judge.
        embeddings: for AlignSync; ImageBind-huge in the published tables. Without one there is no AlignSync.
        num_clips: clips of 2 s of every video.
        frame_size: height and width, or the side, that frames are trimmed to: ASVA's 256, and [128, 256] for The
            Greatest Hits; null takes them as they are.

    Raises:
        InputError: if ``num_clips`` is below 1.
    """

    higher_is_better: ClassVar[dict[str, bool]] = {"relsync": True, "alignsync": True}
    needs_reference: ClassVar = True

    def __init__(
        self,
        classifier: AVSyncClassifier,
        embeddings: EmbeddingModel | None = None,
        num_clips: int = 3,
        frame_size: int | tuple[int, int] | None = 256,
    ) -> None:
        super().__init__()
        if num_clips < 1:
            raise InputError(f"RelAlignSync.num_clips is {num_clips}; it must be at least 1")
        self.classifier = classifier.requires_grad_(False)
        self.embeddings = None if embeddings is None else embeddings.requires_grad_(False)
        if embeddings is None:
            self.higher_is_better = {"relsync": True}  # type: ignore[misc]  # only what it will say
        self.num_clips = num_clips
        self.frame_size = frame_size
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked for: batch norms use the stored moments."""
        return super().train(False)

    def identity(self) -> dict[str, object]:
        """Settings, the classifier's weights, and what the embedding model says of itself."""
        weights = identity_of(self.classifier)
        return {
            "classifier": weights.name,
            "classifier_sha256": weights.sha256,
            "embeddings": None if self.embeddings is None else self.embeddings.identity(),
            "num_clips": self.num_clips,
            "frame_size": self.frame_size,
        }

    @torch.no_grad()
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """One by one, so that no clip's score depends on another's.

        Raises:
            InputError: if there is no real video to compare with.
        """
        _check_real(generation.reference, rows[0])
        with no_autocast(next(self.parameters()).device):
            return [self._score(generation, row) for row in rows]

    def _score(self, generation: Generation, row: int) -> ClipScores:
        real = generation.reference
        if real.mute is not None and bool(real.mute[row]):
            return ClipScores(problem="no_real_sound")
        made = Recording(generation.video[row], generation.fps, generation.audio[row], generation.sample_rate)
        true = Recording(real.video[row], real.fps, real.audio[row], real.sample_rate)
        duration_s = min(made.duration_s, true.duration_s)
        if duration_s < MIN_DURATION_S:
            return ClipScores(problem="too_short")
        found: dict[str, list[float]] = {"relsync": [], "alignsync": []}
        # a clip that is as long as one has the same one several times
        for start_s in dict.fromkeys(clip_starts(duration_s, self.num_clips)):
            pair = [recording.clip(start_s, self.frame_size) for recording in (made, true)]
            for name, value in self._of_clip(*pair).items():
                found[name].append(value)
        return ClipScores({name: 100 * fmean(values) for name, values in found.items() if values})

    def _of_clip(self, made: AsvaClip, true: AsvaClip) -> dict[str, float]:
        """Both scores in [0, 1] of two seconds."""
        made_sound, true_sound = (at_imagebind_rate(clip.sound, clip.sample_rate) for clip in (made, true))
        relative = relsync(self._in_step(made.frames, made_sound), self._in_step(true.frames, true_sound))
        scores = {"relsync": float(relative)}
        if self.embeddings is not None:
            likeness = _likeness(self.embeddings, made.frames[1:], made_sound)
            first = _likeness(self.embeddings, true.frames[:1], true_sound)
            scores["alignsync"] = float(alignsync(relative.to(first.device), likeness[None], first))
        return scores

    def _in_step(self, frames: Tensor, sound: Tensor) -> Tensor:
        """The classifier's score ``[1]`` of frames ``[12, 3, H, W]`` and two seconds of sound."""
        pictures = clip_normalised(squashed(frames, IMAGE_SIZE)).transpose(0, 1)[None]
        device = next(self.classifier.parameters()).device
        score: Tensor = self.classifier(imagebind_mel(sound[None])[:, None].to(device), pictures.to(device))
        return score


def _likeness(model: EmbeddingModel, frames: Tensor, sound: Tensor) -> Tensor:
    """Cosine ``[T]`` of every frame with the sound."""
    return asva_vectors(model, frames, len(frames)) @ mean_sound(model, [sound])


def _check_real(batch: ClipBatch, row: int) -> None:
    """Refuses data without real videos.

    Raises:
        InputError: naming the clip.
    """
    if batch.prepared is not None:
        raise InputError(
            f"clip '{batch.ids[row]}' comes as prepared latents; RelSync compares with the real pictures: evaluate on "
            "the recordings themselves"
        )
    if batch.video.shape[1] < 2:
        raise InputError(
            f"clip '{batch.ids[row]}' has no real video, only a first frame; RelSync compares with one: leave "
            "RelAlignSync out"
        )
