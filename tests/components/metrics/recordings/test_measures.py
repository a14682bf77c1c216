"""Sounds and pictures whose measures are known by hand."""

import math

import numpy as np
import pytest
import torch

from components.metrics.recordings.measures import (
    Window,
    clipped_share,
    loudness_lufs,
    silent_share,
    sound_offset,
    still_share,
)

RATE, FPS = 16000, 25.0
EVENTS = (0.4, 0.95, 1.3, 2.2, 2.55)


def tone(seconds: float, level: float = 1.0, hz: float = 997.0, rate: int = RATE) -> torch.Tensor:
    return level * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate)) / rate)


def clicks(times: tuple[float, ...], seconds: float = 3.0) -> torch.Tensor:
    sound = torch.zeros(round(seconds * RATE))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(800)).float()
    for time in times:
        begin = round(time * RATE)
        piece = sound[begin : begin + 800]
        piece += (0.3 * noise * torch.exp(-torch.arange(800) / 200))[: len(piece)]
    return sound


def jumps(times: tuple[float, ...], seconds: float = 3.0) -> torch.Tensor:
    """A square that stands elsewhere from every event on."""
    video = torch.zeros(round(seconds * FPS), 3, 16, 16, dtype=torch.uint8)
    for frame in range(len(video)):
        place = 3 * sum(time <= frame / FPS for time in times) % 12
        video[frame, :, place : place + 4, place : place + 4] = 255
    return video


def test_loudness_is_that_of_the_recommendation():
    """A sine of 997 Hz at full scale has -3.01 LUFS in one channel (BS.1770-4, annex 1)."""
    assert loudness_lufs(tone(3.0, rate=48000), 48000) == pytest.approx(-3.01, abs=0.05)
    assert loudness_lufs(tone(3.0, level=0.1, rate=48000), 48000) == pytest.approx(-23.01, abs=0.05)
    assert loudness_lufs(tone(3.0), RATE) == pytest.approx(-3.01, abs=0.1), "at any rate"
    assert loudness_lufs(torch.zeros(RATE), RATE) is None
    assert loudness_lufs(tone(0.3), RATE) is None, "no block of 0.4 s"


def test_silence_and_clipping_are_shares():
    sound = torch.cat([torch.zeros(RATE), tone(3.0, 0.5)])
    assert silent_share(sound, RATE) == pytest.approx(0.25, abs=0.02)
    assert clipped_share(sound) == 0
    clipped = tone(1.0, 4.0, hz=50.0).clamp(-1, 1)
    # a sine of height 4 is beyond 1 but for 2 asin(1/4) / pi of the time
    assert clipped_share(clipped) == pytest.approx(1 - 2 * math.asin(0.25) / math.pi, abs=0.02)
    peaks = torch.zeros(100)
    peaks[::10] = 1.0
    assert clipped_share(peaks) == 0, "a peak that reaches full scale is not cut off"
    assert silent_share(torch.empty(0), RATE) is None
    assert clipped_share(torch.empty(0)) is None


def test_frames_that_repeat_are_still():
    assert still_share(jumps(EVENTS)) == pytest.approx(1 - len(EVENTS) / 74)
    assert still_share(jumps(())) == 1
    assert still_share(jumps(())[:1]) is None
    noisy = torch.rand(20, 3, 16, 16).lt(0.1).to(torch.uint8)
    assert still_share(noisy) == 1, "less than half a grey level is noise"


@pytest.mark.parametrize("late_s", [-0.3, -0.1, 0.0, 0.06, 0.25])
def test_a_sound_that_was_moved_is_found(late_s: float):
    window = Window(jumps(EVENTS), FPS, clicks(tuple(time + late_s for time in EVENTS)), RATE)
    found = sound_offset([window])
    assert found is not None
    assert found[0] == pytest.approx(late_s, abs=0.75 / FPS)
    assert found[1] > 0.3


def test_windows_of_one_recording_count_together():
    windows = [
        Window(jumps((0.5, 1.4)), FPS, clicks((0.6, 1.5)), RATE),
        Window(jumps((0.8, 2.1)), FPS, clicks((0.9, 2.2)), RATE),
        Window(jumps(()), FPS, clicks(EVENTS), RATE),  # says nothing
    ]
    found = sound_offset(windows)
    assert found is not None
    assert found[0] == pytest.approx(0.1, abs=0.75 / FPS)


def test_nobody_knows_the_offset_of_what_is_still_silent_or_regular():
    still = Window(jumps(()), FPS, clicks(EVENTS), RATE)
    silent = Window(jumps(EVENTS), FPS, torch.zeros(3 * RATE), RATE)
    mute = Window(jumps(EVENTS), FPS, torch.empty(0), RATE)
    assert sound_offset([still]) is sound_offset([silent]) is sound_offset([mute]) is sound_offset([]) is None
    assert sound_offset([Window(jumps(EVENTS), FPS, tone(3.0, 0.3), RATE)]) is None
    rustling = torch.from_numpy(np.random.default_rng(1).normal(0, 0.05, 3 * RATE)).float()
    found = sound_offset([Window(jumps((0.3,)), FPS, rustling, RATE)])
    assert found is None or found[1] < 0.15, "it rustles all the time"
    for frames in (2, 10, 24):
        short = Window(jumps((0.04,))[:frames], FPS, clicks((0.04,))[: round(frames / FPS * RATE)], RATE)
        assert sound_offset([short]) is None, "below a second"
    beats = tuple(np.arange(0.2, 2.9, 0.3).tolist())
    found = sound_offset([Window(jumps(beats), FPS, clicks(beats), RATE)])
    assert found is not None
    assert found[1] < 0.15, "one beat later it fits as well"
