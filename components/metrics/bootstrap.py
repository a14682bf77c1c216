"""The bootstrap interval that stands beside every score, and beside the difference of two runs.

Imports NumPy alone: who compares two finished runs waits for nothing else.
"""

from __future__ import annotations

import numpy as np

NUM_RESAMPLES = 4_000
_SEED = 0
_LEVELS = (0.025, 0.975)
_MOST_DRAWN = 2**21
"""Draws held at a time: 16 MiB."""


def bootstrap_interval(means: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile bootstrap interval of the mean over recordings.

    Recordings are drawn with replacement, with all their clips: clips of one recording are not independent. Both ends
    are means of recordings' means, so they never leave the range of the scores. The draws come from a generator of
    their own: the same scores give the same interval on every rank and in every run.

    Args:
        means: ``[K, V]`` the means of V recordings, of K kinds of score. All kinds see the same draws.
        weights: ``[V]`` positive, of how many items each mean is: the interval is that of the mean over all items,
            which are drawn recording by recording. None counts recordings alike.

    Returns:
        Low and high ends ``[K]``; NaN where there are fewer than two recordings, which say nothing of their spread.
    """
    means = np.asarray(means, np.float64)
    kinds, videos = means.shape
    if videos < 2:
        return np.full(kinds, np.nan), np.full(kinds, np.nan)
    generator = np.random.default_rng(_SEED)
    block = max(1, _MOST_DRAWN // videos)
    drawn = []
    for start in range(0, NUM_RESAMPLES, block):
        chosen = generator.integers(videos, size=(min(block, NUM_RESAMPLES - start), videos))
        if weights is None:
            drawn.append(means[:, chosen].mean(axis=2))
        else:
            drawn.append((means * weights)[:, chosen].sum(axis=2) / weights[chosen].sum(axis=1))
    low, high = np.quantile(np.concatenate(drawn, axis=1), _LEVELS, axis=1)
    # sums are rounded: equal scores must give their own value, not one beside it
    least, most = means.min(axis=1), means.max(axis=1)
    return np.clip(low, least, most), np.clip(high, least, most)
