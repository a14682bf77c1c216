"""Motion smoothness: 1 where the interpolator is right, and by how much it is wrong elsewhere."""

import pytest
import torch

from components.errors import InputError
from components.metrics.video.frame_interpolation import FrameInterpolator, ScriptedInterpolator
from components.metrics.video.motion_smoothness import MotionSmoothness
from tests.components.metrics.video.clips import frozen, generation, moving_square, noise, scripted


class Average(torch.nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first + second) / 2


class LinearMotion(FrameInterpolator):
    """Moves the one bright square half way."""

    def forward(self, first, second):
        def left(picture):
            return picture[0].amax(dim=0).nonzero()[0].item()

        shifts = [(left(b) - left(a)) / 2 for a, b in zip(first, second, strict=True)]
        assert all(shift == int(shift) for shift in shifts)
        return torch.stack([a.roll(int(shift), dims=-1) for a, shift in zip(first, shifts, strict=True)])

    def identity(self):
        return {}


@pytest.fixture(scope="module")
def average(tmp_path_factory):
    return scripted(Average(), tmp_path_factory.mktemp("scripts") / "average.pt")


def smoothness(interpolator, video, **settings):
    (score,) = MotionSmoothness(interpolator, **settings).score(generation(video), [0])
    return score.values.get("motion_smoothness", score.problem)


def test_linear_motion_is_perfectly_smooth_to_a_linear_interpolator():
    assert smoothness(LinearMotion(), moving_square(9, 64, 3)) == 1


def test_a_jump_costs_the_pixels_it_touches():
    """One frame of four guessed ones shows the square 2 pixels late: 2 columns appear, 2 are gone."""
    video = moving_square(9, 64, 3)
    video[0, 3] = video[0, 3].roll(-2, dims=-1)
    wrong = 2 * 2 * 8 / 64**2
    assert smoothness(LinearMotion(), video) == pytest.approx(1 - wrong / 4)


def test_frozen_clips_are_smooth_and_noise_is_not(average):
    still = smoothness(ScriptedInterpolator(average), frozen(1, 7, 20, 33))
    assert still == 1
    # |x - (y + z) / 2| of three uniform numbers is 7/24 on average
    assert smoothness(ScriptedInterpolator(average), noise(1, 7, 64, 64)) == pytest.approx(1 - 7 / 24, abs=0.01)


def test_only_guessed_frames_count(average):
    """Of an even number the last frame has no successor; kept frames are compared with nothing."""
    video = frozen(1, 6, 16, 16).clone()
    video[0, 5] = 0
    assert smoothness(ScriptedInterpolator(average), video) == 1
    assert smoothness(ScriptedInterpolator(average), video[:, :2]) == "too_short"


def test_guesses_are_cut_to_whole_levels(average):
    """Half a level between 11 and 12 becomes 11, as VBench's conversion has it."""
    levels = torch.tensor([11.0, 11.0, 12.0]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 16, 16) / 255
    assert smoothness(ScriptedInterpolator(average), levels) == 1
    levels = torch.tensor([11.0, 12.0, 12.0]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 16, 16) / 255
    assert smoothness(ScriptedInterpolator(average), levels) == pytest.approx(1 - 1 / 255)


def test_pairs_at_once_change_nothing(average):
    video = noise(1, 11, 24, 24)
    one = smoothness(ScriptedInterpolator(average), video)
    assert smoothness(ScriptedInterpolator(average), video, pairs_at_once=4) == pytest.approx(one, rel=1e-12)


def test_what_is_no_interpolator_is_refused(tmp_path):
    class Halved(torch.nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first[:, :, ::2]

    script = scripted(Halved(), tmp_path / "halved.pt")
    with pytest.raises(InputError, match=r"gave \[1, 3, 8, 16\] for pictures \[1, 3, 16, 16\]"):
        smoothness(ScriptedInterpolator(script), noise(1, 3, 16, 16))
    (tmp_path / "text.pt").write_text("no script")
    with pytest.raises(InputError, match="is not a readable TorchScript file"):
        ScriptedInterpolator(str(tmp_path / "text.pt"))
    with pytest.raises(InputError, match="is no file on this disk; write it as the class's description says"):
        ScriptedInterpolator(str(tmp_path / "absent.pt"))
    with pytest.raises(InputError, match="SHA-256"):
        ScriptedInterpolator(script, sha256="0" * 64)


def test_identity_tells_interpolators_apart(average, tmp_path):
    found = MotionSmoothness(ScriptedInterpolator(average)).identity()
    assert found["interpolator"] == "ScriptedInterpolator" and found["multiple"] == 16 and len(found["sha256"]) == 64
