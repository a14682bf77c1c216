import doctest

import torch

from components.metrics.cyclesync import motion_peaks
from components.metrics.cyclesync.motion_peaks import motion_curve, strict_local_maxima


def test_curve_is_the_mean_absolute_difference():
    video = torch.zeros(2, 4, 3, 2, 2)
    video[0, 2:] = 0.5
    video[1, 1, 0] = 1.0  # red only: a third of all values
    expected = torch.tensor([[0.0, 0.0, 0.5, 0.0], [0.0, 1 / 3, 1 / 3, 0.0]])
    torch.testing.assert_close(motion_curve(video), expected)


def test_plateaus_and_ends_are_no_maxima():
    assert strict_local_maxima([3.0, 1.0, 2.0, 2.0, 1.0, 5.0]) == []
    assert strict_local_maxima([0.0, 1.0, 0.0, 2.0, 0.0]) == [1, 3]
    assert strict_local_maxima([0.0, 1.0, 0.0, 2.0, 0.0], floor=2.0) == [3]


def test_short_curves():
    for length in range(3):
        assert strict_local_maxima(torch.ones(length)) == []


def test_example_in_the_documentation():
    assert doctest.testmod(motion_peaks).failed == 0
