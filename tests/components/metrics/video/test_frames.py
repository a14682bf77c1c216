"""Which frames are looked at: the first that begins at or after each moment."""

import pytest
import torch

from components.metrics.video.frames import frames_at, padded_to_multiple


@pytest.mark.parametrize(
    ("num_frames", "fps", "rate_hz", "expected"),
    [
        (48, 24.0, 6.0, list(range(0, 48, 4))),
        (60, 30.0, 6.0, list(range(0, 60, 5))),
        # 1/6 s is 4.17 frames: frame 5 is the first that begins then
        (25, 25.0, 6.0, [0, 5, 9, 13, 17, 21]),
        (5, 10.0, None, [0, 1, 2, 3, 4]),
        (3, 3.0, 6.0, [0, 1, 1, 2, 2, 2]),
        (1, 24.0, 6.0, [0]),
        (121, 24.0, 24.0, list(range(121))),
    ],
)
def test_frames_at(num_frames, fps, rate_hz, expected):
    assert frames_at(num_frames, fps, rate_hz) == expected


@pytest.mark.parametrize(("height", "width"), [(16, 32), (17, 30), (31, 1)])
def test_padding_repeats_edges_and_can_be_undone(height, width):
    pictures = torch.rand(2, 3, height, width)
    padded, inside = padded_to_multiple(pictures, 16)
    assert padded.shape[-2] % 16 == padded.shape[-1] % 16 == 0
    assert torch.equal(padded[..., inside[0], inside[1]], pictures)
    assert torch.equal(padded[..., 0, inside[1]], pictures[..., 0, :])
    assert torch.equal(padded[..., inside[0], -1], pictures[..., -1])
