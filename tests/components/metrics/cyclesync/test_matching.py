import doctest
from functools import cache

import mir_eval
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.metrics.cyclesync import matching
from components.metrics.cyclesync.matching import EPSILON_S, count_matches, match_events, onset_iou

TOLERANCES = [0.02, 1 / 24, 0.05, 0.1, 0.2]
# a coarse grid makes ties, duplicates and times exactly at the tolerance likely
times = st.lists(st.integers(0, 150).map(lambda n: n / 100), max_size=8)
tolerance = st.sampled_from(TOLERANCES)


def brute_force(a, b, tolerance_s):
    """Size of the largest matching by trying everything."""

    @cache
    def best(i, free):
        if i == len(a):
            return 0
        partners = [j for j in range(len(b)) if free >> j & 1 and abs(a[i] - b[j]) <= tolerance_s + EPSILON_S]
        return max([best(i + 1, free), *(1 + best(i + 1, free & ~(1 << j)) for j in partners)])

    return best(0, (1 << len(b)) - 1)


@given(times, times, tolerance)
def test_is_maximum(a, b, tolerance_s):
    assert count_matches(a, b, [tolerance_s]) == [brute_force(tuple(a), tuple(b), tolerance_s)]


@given(times, times, tolerance)
def test_equals_mir_eval(a, b, tolerance_s):
    reference = mir_eval.util.match_events(np.sort(a), np.sort(b), tolerance_s + EPSILON_S)
    assert len(match_events(a, b, tolerance_s)) == len(reference)


@given(times, times, tolerance)
def test_pairs_are_one_to_one_and_close(a, b, tolerance_s):
    pairs = match_events(a, b, tolerance_s)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(abs(a[i] - b[j]) <= tolerance_s + EPSILON_S for i, j in pairs)


@given(times, times)
def test_wider_tolerance_never_loses_and_order_of_arguments_is_free(a, b):
    counts = count_matches(a, b, TOLERANCES)
    assert counts == sorted(counts)
    assert counts == count_matches(b, a, TOLERANCES) == count_matches(a[::-1], b, TOLERANCES)


@given(times.filter(bool), times)
def test_iou_bounds(a, b):
    (iou,) = onset_iou(a, b, [0.05])
    assert 0.0 <= iou <= 1.0
    assert onset_iou(a, a, [0.0]) == (1.0,)
    assert (iou == 0.0) == (count_matches(a, b, [0.05]) == [0])


def test_nearest_pair_first_would_lose_a_pair():
    assert count_matches([1.0, 1.09], [1.08, 1.17], [0.1]) == [2]


def test_empty_lists():
    assert onset_iou([], [], TOLERANCES) is None
    assert onset_iou([1.0], [], [0.05, 0.1]) == (0.0, 0.0)


def test_boundary_counts_as_a_match():
    assert count_matches([1.0], [1.05], [0.05]) == [1]
    assert count_matches([1.0], [1.05 + 1e-6], [0.05]) == [0]


@pytest.mark.parametrize("shift", [0.3, 7.7])
def test_shifting_both_lists_changes_nothing(shift):
    a, b = [0.1, 0.53, 0.9, 1.4], [0.12, 0.6, 0.88]
    assert count_matches([t + shift for t in a], [t + shift for t in b], TOLERANCES) == count_matches(a, b, TOLERANCES)


def test_examples_in_the_documentation():
    assert doctest.testmod(matching).failed == 0
