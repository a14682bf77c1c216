import sys

import pytest
import torch

from components.errors import InputError
from components.metrics.av_align.optical_flow import flow_curve


def texture(height=64, width=96):
    """A soft random picture ``[3, H, W]`` in [0, 1]."""
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]


def test_a_picture_that_moves_by_a_pixel_has_a_flow_of_one():
    video = torch.stack([texture().roll(frame, 2) for frame in range(5)])
    torch.testing.assert_close(flow_curve(video), torch.ones(5, dtype=torch.float64), atol=0.1, rtol=0)


def test_the_flow_belongs_to_the_frame_it_leads_to():
    video = torch.stack([texture().roll(2 * (frame >= 3), 1) for frame in range(6)])
    curve = flow_curve(video)
    assert curve.argmax() == 3 and curve[3] > 1.5
    assert curve[[0, 1, 2, 4, 5]].max() < 0.01


def test_the_first_frame_takes_the_value_of_the_second():
    video = torch.stack([texture().roll(2 * (frame >= 1), 1) for frame in range(3)])
    curve = flow_curve(video)
    assert curve[0] == curve[1] > 1.5


def test_precision_and_gradients_change_nothing():
    """Pictures become 8 bits, as the public code reads them from files."""
    video = torch.stack([texture().roll(frame, 2) for frame in range(3)])
    exact = (video * 255).round() / 255
    assert torch.equal(flow_curve(video), flow_curve(exact.requires_grad_()))


@pytest.mark.parametrize("num_frames", [0, 1])
def test_a_video_without_a_second_frame_does_not_move(num_frames):
    assert flow_curve(texture().expand(num_frames, -1, -1, -1)).tolist() == [0.0] * num_frames


def test_without_opencv_its_installation_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"needs OpenCV.*pip install 'avsync\[eval\]'"):
        flow_curve(texture()[None])
