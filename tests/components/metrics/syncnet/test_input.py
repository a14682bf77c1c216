import math

import pytest
import torch

from components.errors import InputError
from components.metrics.syncnet.input import at_syncnet_fps, at_syncnet_rate, network_pictures, resized


def stamped(frames):
    """Frame n is filled with n."""
    return torch.arange(frames, dtype=torch.float32)[None, :, None, None, None].expand(1, frames, 3, 2, 2)


@pytest.mark.parametrize("fps", [8.0, 23.976, 24.0, 29.97, 30.0, 60.0])
def test_frames_stay_on_the_clock(fps):
    found = at_syncnet_fps(stamped(round(4 * fps)), fps)[0, :, 0, 0, 0]
    assert len(found) == 100
    for n, shown in enumerate(found.tolist()):
        # what is on screen half way through
        assert shown / fps <= (n + 0.5) / 25 + 1e-6 < (shown + 1) / fps + 1e-6


def test_a_clip_of_25_fps_is_taken_as_it_is():
    video = stamped(7)
    assert at_syncnet_fps(video, 25.0) is video


@pytest.mark.parametrize(("frames", "fps", "expected"), [(49, 24.0, 51), (121, 24.0, 126), (1, 24.0, 1), (1, 100.0, 1)])
def test_number_of_frames(frames, fps, expected):
    assert at_syncnet_fps(stamped(frames), fps).shape[1] == expected


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 8_000])
def test_sound_keeps_its_clock_and_pitch(rate):
    def tone(at):
        times = torch.arange(at, dtype=torch.float64) / at
        return (torch.sin(2 * math.pi * 440 * times) * torch.exp(-((times - 0.5) ** 2) / 0.01)).float()[None]

    found = at_syncnet_rate(tone(rate), rate)
    assert found.shape == (1, 16_000)
    torch.testing.assert_close(found, tone(16_000), atol=5e-3, rtol=0)


def test_pictures_are_bgr_in_0_to_255():
    frames = torch.zeros(2, 3, 8, 8)
    frames[:, 0] = 1.0
    found = network_pictures(frames, 16)
    assert found.shape == (3, 2, 16, 16)
    assert found[2].unique().tolist() == [255.0] and found[:2].unique().tolist() == [0.0]


def test_shrinking_takes_no_average():
    """As ``cv2.resize`` does: a quarter of the size reads the two middle pixels of each four."""
    row = torch.tensor([0.0, 1.0, 3.0, 0.0]).expand(1, 3, 4, 4)
    assert resized(row, 1).flatten().tolist() == [2.0] * 3
    assert resized(row, 4) is row


def test_bad_videos():
    with pytest.raises(InputError, match=r"video is \[1, 0, 3, 2, 2\]"):
        at_syncnet_fps(torch.zeros(1, 0, 3, 2, 2), 24.0)
    with pytest.raises(InputError, match="fps is 0"):
        at_syncnet_fps(stamped(2), 0.0)
