"""Sync-C and Sync-D of single clips, for whoever scores clips by the common contract (`ClipScorer`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, get_args

from components.contracts import Generation
from components.metrics.scorers import ClipScorer, ClipScores
from components.metrics.syncnet.scorer import Problem, SyncNetScorer, SyncScore

SCORES = ("sync_c", "sync_d")
"""Sync-C (also LSE-C), SyncNet's confidence, higher is better; Sync-D (LSE-D), its distance, lower is better."""
PROBLEMS: tuple[Problem, ...] = get_args(Problem)


def clip_scores(score: SyncScore) -> ClipScores:
    """What SyncNet says of a clip, as `ClipMeans` takes it."""
    if score.problem is not None:
        return ClipScores(problem=score.problem)
    return ClipScores({"sync_c": score.sync_c, "sync_d": score.sync_d})


class SyncNetScores(ClipScorer):
    """Sync-C (``sync_c``, higher is better) and Sync-D (``sync_d``, lower is better) of a clip's own picture and sound.

    Clips without a face (``no_face``) and with none that is seen long enough (``too_short``) have no score and are
    counted apart. The faces of whole scenes need ``scorer.faces``; without, the picture as a whole is taken for one.

    Args:
        scorer: the network, and the way to the faces.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"sync_c": True, "sync_d": False}

    def __init__(self, scorer: SyncNetScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """See `ClipScorer.score`."""
        chosen, device = list(rows), next(self.parameters()).device
        known = self.scorer.boxes(generation.reference, chosen)
        lips = self.scorer.lips(generation.video[chosen].to(device), generation.fps, known)
        sounds = self.scorer.sounds(generation.audio[chosen].to(device), generation.sample_rate)
        return [clip_scores(self.scorer.score(tracks, sound)) for tracks, sound in zip(lips, sounds, strict=True)]

    def identity(self) -> dict[str, object]:
        """See `ClipScorer.identity`."""
        return self.scorer.identity()
