import math

import pytest
import torch

from components.metrics.recording_means import NORMAL_95, mean_and_spread


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


def test_the_interval_is_of_95_percent():
    assert torch.special.ndtr(torch.tensor(NORMAL_95)).item() == pytest.approx(0.975, abs=1e-6)
