"""What measures clips: one by one (`ClipScorer`) or as a set by their features (`FeatureExtractor`).

Both see a `Generation`, in training and in ``avsync score`` alike: what was made of a clip (pictures, sound) beside
what it was made from (``generation.reference``: real pictures, caption, transcript, reference sound). A real clip is
judged as a `Generation` of itself (`real_clips`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from components.contracts import ClipBatch, Generation


@dataclass(frozen=True)
class ClipScores:
    """What a scorer says of one clip.

    Attributes:
        values: metric -> value, in the unit its table has; a metric that the clip has no score in is left out.
        problem: why the clip has no score (``no_face``, ``too_short``, ``silent``): a word that is counted apart, so
            that a model cannot win by making clips that nobody can score. None where it has.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None


class ClipScorer(nn.Module, ABC):
    """Scores clips one by one; a set's value is the mean over recordings of the mean over their clips.

    Weights are frozen, never part of a trained model, and on its device only during an evaluation.
    """

    higher_is_better: ClassVar[Mapping[str, bool]]
    """Metric -> whether a higher value is better; names all that `score` may say."""
    needs_reference: ClassVar[bool] = False
    """Whether it has nothing to say without real clips: ``avsync score`` leaves it out where there are none. One that
    does not say so is shown the first real picture alone where sounds are exchanged (`callbacks.clip_metrics`)."""

    @abstractmethod
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """Scores the clips of those ``rows``.

        Args:
            generation: video ``[B, T, 3, H, W]`` in [0, 1] and sound ``[B, S]`` mono in [-1, 1].
            rows: which of the B clips; never empty.

        Returns:
            One per row, in their order; the same whatever the batch a clip comes in.

        Raises:
            InputError: if the clips lack what is measured (a transcript, a reference sound); it names the clip.
        """

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that a score depends on beside the clip: settings and the SHA-256 of the weights, as plain values."""


class FeatureExtractor(nn.Module, ABC):
    """Features of clips, whose distribution is compared between generated and real ones (FID, FVD, KVD, FAD)."""

    dim: int
    """Numbers per feature."""

    @abstractmethod
    def features(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        """Features of each of those ``rows``: ``[N, dim]`` float32 each, N frames, windows or 1."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that a feature depends on beside the clip: settings and the SHA-256 of the weights, as plain values."""


def real_clips(batch: ClipBatch) -> Generation:
    """The clips of a data set as if they had been generated."""
    return Generation(
        video=batch.video.float() / 255,
        fps=batch.fps,
        audio=batch.audio,
        sample_rate=batch.sample_rate,
        reference=batch,
        valid=batch.valid,
    )
