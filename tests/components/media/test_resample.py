"""The resampler against functions known at every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.media.resample import filter_reach, resample

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 44056]


def tone(frequency: float, times: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * times + 0.3).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from([16000, 22050, 48000]), st.integers(0, 999), st.floats(0.02, 0.3))
def test_a_tone_is_the_same_tone_at_any_rate_and_start(source: int, target: int, shift: int, share: float) -> None:
    frequency = share * min(source, target)
    samples = tone(frequency, np.arange(source // 4) / source)
    start = source // 10 + shift / 32  # the filters know 1/32 of a sample
    found = resample(samples, source, target, start, target // 50)
    expected = tone(frequency, start / source + np.arange(target // 50) / target)
    if source == target:
        expected = tone(frequency, round(start) / source + np.arange(target // 50) / target)
    assert np.abs(found - expected).max() < 2e-3


@pytest.mark.parametrize("source", RATES)
def test_a_constant_stays_constant(source: int) -> None:
    found = resample(np.full(source, 0.7, np.float32), source, 16000, filter_reach(source, 16000) + 1, 8000)
    assert found == pytest.approx(0.7, abs=1e-5)


def test_what_the_target_cannot_hold_is_removed() -> None:
    loud = tone(11000, np.arange(48000) / 48000)
    assert np.abs(resample(loud, 48000, 16000, 4800, 8000)).max() < 1e-3


def test_equal_rates_are_a_slice_with_zeros_outside() -> None:
    samples = np.arange(10, dtype=np.float32)
    assert resample(samples, 8, 8, -2.2, 5).tolist() == [0, 0, 0, 1, 2]
    assert resample(samples, 8, 8, 7.8, 4).tolist() == [8, 9, 0, 0]
    assert resample(samples, 8, 8, 20, 2).tolist() == [0, 0]
