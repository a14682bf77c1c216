"""Optimal one-to-one matching of two lists of event times within a tolerance.

Reference: metrics specification, section 2, step 4. All tolerance intervals have the same length, so that taking the
earliest admissible partner of the earliest event never costs a pair: one sorted pass is a maximum matching. Taking the
nearest pair first is not.
"""

from __future__ import annotations

from collections.abc import Sequence

EPSILON_S = 1e-9
"""Slack on the tolerance, so that times written in decimal match at the tolerance itself."""


def match_events(first: Sequence[float], second: Sequence[float], tolerance_s: float) -> list[tuple[int, int]]:
    """A largest set of pairs (index into ``first``, index into ``second``) no further apart than ``tolerance_s``.

    Inputs may be unsorted and may repeat times; every event is used at most once. O(n log n).

    Example:
        >>> match_events([1.0, 1.09], [1.08, 1.17], tolerance_s=0.1)
        [(0, 0), (1, 1)]
    """
    order_first = sorted(range(len(first)), key=first.__getitem__)
    order_second = sorted(range(len(second)), key=second.__getitem__)
    pairs = []
    i = j = 0
    while i < len(order_first) and j < len(order_second):
        gap = second[order_second[j]] - first[order_first[i]]
        if abs(gap) <= tolerance_s + EPSILON_S:
            pairs.append((order_first[i], order_second[j]))
            i += 1
            j += 1
        elif gap > 0:
            # no partner is left for it: what follows in ``second`` is further away still
            i += 1
        else:
            j += 1
    return pairs


def count_matches(first: Sequence[float], second: Sequence[float], tolerances_s: Sequence[float]) -> list[int]:
    """Size of the largest matching at each tolerance.

    Example:
        >>> count_matches([0.0, 1.0], [0.04, 1.3], tolerances_s=[0.02, 0.05, 0.5])
        [0, 1, 2]
    """
    first, second = sorted(first), sorted(second)
    return [len(match_events(first, second, tolerance)) for tolerance in tolerances_s]


def onset_iou(
    first: Sequence[float], second: Sequence[float], tolerances_s: Sequence[float]
) -> tuple[float, ...] | None:
    """Intersection over union of two onset lists, ``I / (|A| + |B| - I)``, at each tolerance.

    Returns:
        One value in [0, 1] per tolerance, or None where both lists are empty and nothing is defined.

    Example:
        >>> onset_iou([0.0, 1.0], [0.04, 1.3], tolerances_s=[0.05, 0.5])
        (0.3333333333333333, 1.0)
    """
    total = len(first) + len(second)
    if not total:
        return None
    # I / (|A| + |B| - I)
    return tuple(hits / (total - hits) for hits in count_matches(first, second, tolerances_s))
