import doctest

import pytest
import torch

from components.v2a import onset_v2a as module
from components.v2a.onset_v2a import probability_peaks


def test_of_two_close_peaks_the_higher_stays():
    curve = torch.zeros(50)
    curve[[10, 14, 30]] = torch.tensor([0.6, 0.9, 0.7])
    assert probability_peaks(curve, 100.0, 0.5, 0.08) == pytest.approx([0.14, 0.3])
    assert probability_peaks(curve, 100.0, 0.5, 0.03) == pytest.approx([0.1, 0.14, 0.3])
    assert probability_peaks(curve, 100.0, 0.8, 0.03) == pytest.approx([0.14])


def test_flat_and_short_curves_have_no_peaks():
    for length in (0, 1, 2, 40):
        assert probability_peaks(torch.ones(length), 96.0, 0.1, 0.08) == []


def test_example_in_the_documentation():
    assert doctest.testmod(module).failed == 0
