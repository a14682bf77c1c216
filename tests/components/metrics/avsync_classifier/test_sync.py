import math

import pytest
import torch

from components.metrics.avsync_classifier.sync import alignsync, relsync


def test_relsync_is_the_softmax_of_both_and_does_not_overflow():
    generated, real = torch.tensor([1.0, 0.0, 500.0, -500.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = [0.5, 1 / (1 + math.e), 1.0, 0.0]
    assert relsync(generated, real).tolist() == pytest.approx(expected, abs=1e-6)


def test_alignsync_falls_with_either():
    relative, first = torch.tensor([0.5]), torch.tensor([0.3])
    real = alignsync(relative, torch.full((1, 11), 0.3), first)
    assert real.item() == pytest.approx(0.25)
    assert alignsync(relative / 2, torch.full((1, 11), 0.3), first) < real
    assert alignsync(relative, torch.full((1, 11), 0.1), first) < real
    one = torch.full((1, 11), 0.3)
    one[0, 4] = 0.1
    expected = 0.5 * (10 * 0.5 + 1 / (1 + math.exp(0.2))) / 11
    assert alignsync(relative, one, first).item() == pytest.approx(expected)
