import pytest
import torch

from components.contracts import clip_generator
from components.metrics.cyclesync.metric import cyclesync_onsets
from components.v2a.bursts import BURST_DELAY_S
from components.v2a.motion_v2a import MotionV2A


def flashes(frames, num_frames=48):
    """A dark picture that lights up at the given frames and then fades."""
    video = torch.full((1, num_frames, 3, 8, 8), 0.1)
    for frame in frames:
        for later in range(frame, min(frame + 5, num_frames)):
            video[:, later] += 0.8 * (1 - (later - frame) / 5)
    return video.clamp(0, 1)


@pytest.mark.parametrize("fps", [12.0, 24.0, 25.0])
def test_flashes_sound_when_they_are_seen(fps):
    frames = [8, 19, 31]
    sound, rate = MotionV2A()(flashes(frames), fps)
    assert sound.shape == (1, round(48 / fps * rate))
    found = cyclesync_onsets(sound, rate)[0]
    assert found == pytest.approx([frame / fps + BURST_DELAY_S for frame in frames], abs=0.02)


def test_still_and_faint_motion_is_silent():
    sound, _ = MotionV2A()(torch.full((2, 24, 3, 8, 8), 0.4), 24.0)
    assert not sound.any()
    assert not MotionV2A(floor=0.9)(flashes([8]), 24.0)[0].any()


def test_generators_decide_the_noise():
    video = flashes([8, 30])
    first, again, other = (MotionV2A()(video, 24.0, None, [clip_generator(name, 0)])[0] for name in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
