import math

import pytest
import torch

from components.metrics.recording_means import interval_of_mean, mean_and_spread


def test_mean_of_means_over_recordings_with_clips():
    sums = torch.tensor([[6.0, 0.0, 5.0], [3.0, 0.0, 1.0]])
    mean, sd, sem = mean_and_spread(sums, torch.tensor([3, 0, 1]))
    assert mean.tolist() == [3.5, 1.0]
    assert sd.tolist() == pytest.approx([math.sqrt(4.5), 0.0])
    assert sem.tolist() == pytest.approx([1.5, 0.0])


def test_too_few_recordings_have_no_spread():
    mean, sd, sem = mean_and_spread(torch.tensor([[4.0, 0.0]]), torch.tensor([2, 0]))
    assert mean.item() == 2
    assert sd.isnan().all() and sem.isnan().all()
    assert mean_and_spread(torch.zeros(1, 2), torch.zeros(2))[0].isnan().all()


def test_the_interval_is_over_recordings_with_clips():
    # means 0 and 10 of the first kind, 4 and 4 of the second: two recordings, the third has no clip
    low, high = interval_of_mean(torch.tensor([[0.0, 20.0, 0.0], [4.0, 8.0, 0.0]]), torch.tensor([1, 2, 0]))
    assert low.tolist() == [0, 4] and high.tolist() == [10, 4]


def test_recordings_that_are_alike_have_an_interval_of_no_width():
    sums = torch.full((1, 7), 100 / 3, dtype=torch.float64)
    low, high = interval_of_mean(sums, torch.ones(7))
    assert low <= sums.mean() <= high and (high - low).item() == pytest.approx(0, abs=1e-12)


def test_one_recording_has_no_interval():
    low, high = interval_of_mean(torch.tensor([[4.0, 0.0]]), torch.tensor([2, 0]))
    assert low.isnan().all() and high.isnan().all()
