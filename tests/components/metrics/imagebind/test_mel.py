import math

import pytest
import torch

from components.metrics.imagebind.mel import at_imagebind_rate, imagebind_mel

EMPTY = 4.268 / 9.138
"""A logarithm of 0, normalised."""


def tone(hertz, seconds, rate=16_000):
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(round(rate * seconds)) / rate)


def test_a_tone_is_a_row():
    mels = imagebind_mel(torch.stack([tone(300, 2), tone(3000, 2)]))
    assert mels.shape == (2, 128, 204)
    low, high = mels[:, :, 50:150].mean(dim=2).argmax(dim=1)
    # bins are even on the mel scale from 20 Hz to 8 kHz
    mel = [1127 * math.log(1 + hertz / 700) for hertz in (20, 300, 3000, 8000)]
    for found, wanted in ((low, mel[1]), (high, mel[2])):
        assert found.item() == pytest.approx(129 * (wanted - mel[0]) / (mel[3] - mel[0]) - 1, abs=1.5)


def test_the_middle_of_more_than_two_seconds_is_heard():
    sound = torch.cat([tone(300, 1), tone(3000, 2), tone(300, 1)])
    torch.testing.assert_close(imagebind_mel(sound[None])[0], imagebind_mel(sound[None, 16_000:48_000])[0])


def test_nothing_is_behind_a_shorter_sound():
    mel = imagebind_mel(tone(300, 1)[None])[0]
    frames = 1 + (16_000 - 400) // 160
    torch.testing.assert_close(mel[:, frames:], torch.full((128, 204 - frames), EMPTY))
    assert (mel[:, : frames - 1].amax(dim=0) > EMPTY).all()


def test_an_offset_and_the_neighbours_are_not_heard():
    sound = tone(300, 2)
    torch.testing.assert_close(imagebind_mel(sound[None] + 0.1), imagebind_mel(sound[None]), atol=1e-2, rtol=0)
    both = imagebind_mel(torch.stack([sound, tone(3000, 2)]))
    assert torch.equal(both[0], imagebind_mel(sound[None])[0])


def test_resampling_keeps_the_tone():
    found = at_imagebind_rate(tone(1000, 1, rate=48_000), 48_000)
    assert len(found) == 16_000
    torch.testing.assert_close(found[200:-200], tone(1000, 1)[200:-200], atol=1e-2, rtol=0)
    sound = tone(1000, 1)
    assert at_imagebind_rate(sound, 16_000) is sound
