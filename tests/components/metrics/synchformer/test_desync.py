import doctest

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.metrics.synchformer import desync
from components.metrics.synchformer.desync import desync_s, offset_grid, offsets_s, window_segments


def certain(*classes: int) -> torch.Tensor:
    """Logits ``[N, 21]`` of a network that is sure of these classes."""
    return 50.0 * torch.nn.functional.one_hot(torch.tensor(classes), 21).float()


@given(count=st.integers(1, 100))
def test_windows_lie_in_the_clip_and_cover_it(count):
    windows = window_segments(count, "javisbench")
    assert all(len(window) == 14 for window in windows)
    assert {segment for window in windows for segment in window} == set(range(count))
    if count >= 14:
        assert all(window == list(range(window[0], window[0] + 14)) for window in windows)
        assert [(window[0], window[-1]) for window in window_segments(count, "av_benchmark")] == [
            (0, 13),
            (count - 14, count - 1),
        ]
    else:
        assert window_segments(count, "av_benchmark") == []


def test_both_rules_agree_on_five_seconds():
    assert window_segments(14, "javisbench") * 2 == window_segments(14, "av_benchmark")


def test_nothing_has_no_window():
    assert window_segments(0, "javisbench") == window_segments(0, "av_benchmark") == []


def test_a_certain_network_says_its_class():
    logits = certain(0, 10, 13, 20)
    seconds = torch.tensor([-2.0, 0.0, 0.6, 2.0])
    for mode in ("argmax", "expected"):
        torch.testing.assert_close(offsets_s(logits, mode), seconds)
        torch.testing.assert_close(desync_s(logits, mode), seconds.abs())


def test_a_network_that_knows_nothing():
    assert desync_s(torch.zeros(21), "expected").item() == pytest.approx(22 / 21)
    every = certain(*range(21))
    assert desync_s(every).mean().item() == pytest.approx(22 / 21)


def test_opposite_guesses_do_not_cancel():
    logits = certain(0) + certain(20)
    assert offsets_s(logits, "expected").item() == pytest.approx(0.0, abs=1e-5)
    assert desync_s(logits, "expected").item() == pytest.approx(2.0, abs=1e-5)


def test_the_grid_is_symmetric_with_an_exact_zero():
    grid = offset_grid()
    assert grid[10] == 0 and grid.flip(0).equal(-grid)


def test_examples_in_the_documentation():
    assert doctest.testmod(desync).failed == 0
