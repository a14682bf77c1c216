"""AV-Align: how many onsets of the sound and peaks of the picture's motion coincide.

Reference: Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation"
(TempoTokens, arXiv 2309.16429), and its code; metrics specification, sections 2 and 6.

    AV-Align = I / (|A| + |V| - I)     I = size of a largest one-to-one matching with |a - v| < 1 / fps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.av_align.optical_flow import flow_curve, opencv
from components.metrics.cyclesync.matching import EPSILON_S, onset_iou
from components.metrics.cyclesync.metric import common_duration_s
from components.metrics.cyclesync.motion_peaks import strict_local_maxima
from components.metrics.cyclesync.onsets import OnsetDetector
from components.metrics.scorers import ClipScorer, ClipScores

MIN_FRAMES = 4
"""Three frame-to-frame motions, the fewest among which one can be a peak."""


class AVAlign(ClipScorer):
    """Intersection over union of onsets and motion peaks, ``av_align`` in 0 to 1, higher is better.

    Onsets are librosa's at 22 050 Hz, over the time that picture and sound both cover. A peak is a strict local maximum
    of the mean optical flow, at the time ``n / fps`` of the frame n that the motion leads to. Clips with onsets or
    peaks alone score 0; clips with neither are counted as ``no_events``, clips of less than four frames as
    ``too_short``.

    What it cannot tell: any regular jitter gives peaks, and a tolerance of a frame hits by chance where peaks are
    dense. Read it beside its chance level (other clips' sounds). Values depend on frame rate and picture size, and are
    comparable only where both are the same.

    Needs OpenCV (``pip install 'avsync[eval]'``); computed on the CPU.

    Args:
        min_flow: smallest mean flow, in pixels per frame, that counts as a peak.

    Raises:
        InputError: if OpenCV is not installed, or ``min_flow`` is negative.
    """

    higher_is_better: ClassVar = {"av_align": True}

    def __init__(self, min_flow: float = 0.1) -> None:
        super().__init__()
        if not min_flow >= 0:
            raise InputError(f"AVAlign.min_flow is {min_flow}; it cannot be negative")
        opencv()  # a missing one is found before anything is generated
        self.min_flow = min_flow
        self.detector = OnsetDetector()

    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """Scores the clips of those ``rows``, one after the other."""
        return [
            self._score(generation.video[row], generation.fps, generation.audio[row], generation.sample_rate)
            for row in rows
        ]

    def identity(self) -> dict[str, object]:
        """The settings: there are no weights."""
        return {"av_align_flow": "farneback", "av_align_min_flow": self.min_flow, "opencv": opencv().__version__}

    def peaks(self, video: Tensor, fps: float) -> list[float]:
        """Seconds at which ``[T, 3, H, W]`` moves most."""
        return [frame / fps for frame in strict_local_maxima(flow_curve(video), self.min_flow)]

    def onsets(self, audio: Tensor, sample_rate: int, duration_s: float) -> list[float]:
        """Seconds of the onsets in the first ``duration_s`` of ``[S]``."""
        return self.detector(audio[None].float(), sample_rate, duration_s)[0]

    def _score(self, video: Tensor, fps: float, audio: Tensor, sample_rate: int) -> ClipScores:
        if len(video) < MIN_FRAMES:
            return ClipScores(problem="too_short")
        duration_s = common_duration_s(len(video), fps, (audio, sample_rate))
        score = av_align(self.onsets(audio, sample_rate, duration_s), self.peaks(video, fps), fps)
        return ClipScores(problem="no_events") if score is None else ClipScores({"av_align": score})


def av_align(onsets_s: Sequence[float], peaks_s: Sequence[float], fps: float) -> float | None:
    """The score of two lists of seconds, None where both are empty.

    Example:
        >>> av_align([0.50, 1.0, 1.5], [0.54, 1.2], fps=30.0)
        0.0
        >>> av_align([0.50, 1.0, 1.5], [0.54, 1.2], fps=20.0)
        0.25
    """
    # less than a frame, where the matching takes what lies at its tolerance
    scores = onset_iou(onsets_s, peaks_s, [1 / fps - 2 * EPSILON_S])
    return None if scores is None else scores[0]
