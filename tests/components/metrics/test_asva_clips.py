import pytest
import torch

from components.metrics.asva_clips import Recording, clip_starts, trimmed


def recording(seconds=5.0, fps=24.0, rate=1000):
    """Frame n is n / 1000, sample k is k."""
    frames = round(seconds * fps)
    video = (torch.arange(frames) / 1000).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return Recording(video, fps, torch.arange(round(seconds * rate)).float(), rate)


def shown(clip):
    return (1000 * clip.frames[:, 0, 0, 0]).round().int().tolist()


def test_clips_are_even_from_start_to_end():
    assert clip_starts(10.0, 3) == [0, 4, 8]
    assert clip_starts(10.0, 1) == [4]
    assert clip_starts(2.0, 3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("fps", "start_s", "frames"),
    [
        (24.0, 0.0, list(range(0, 48, 4))),
        (24.0, 1.0, list(range(24, 72, 4))),
        (30.0, 0.0, list(range(0, 60, 5))),
        # the first at or after its time: 1/6 s lies within frame 4 of 25 fps, frame 5 is the first after it
        (25.0, 0.0, [0, 5, 9, 13, 17, 21, 25, 30, 34, 38, 42, 46]),
        (6.0, 0.0, list(range(12))),
    ],
)
def test_frames_are_the_first_at_their_time(fps, start_s, frames):
    assert shown(recording(fps=fps).clip(start_s, None)) == frames


def test_picture_and_sound_begin_together():
    clip = recording().clip(1.5, None)
    assert shown(clip)[0] == 36
    assert (clip.sound[0], len(clip.sound), clip.sample_rate) == (1500, 2000, 1000)


def test_beyond_the_end_the_last_frame_stays():
    assert shown(recording(seconds=1.5).clip(-0.25, None)) == [0, 4, 8, 12, 16, 20, 24, 28, 32, 35, 35, 35]
    assert len(recording(seconds=1.5).clip(-0.25, None).sound) == 1500


def test_the_shorter_of_picture_and_sound_is_the_duration():
    given = recording(seconds=3.0)
    assert given.duration_s == 3
    assert Recording(given.video, given.fps, given.audio[:2500], 1000).duration_s == 2.5
    assert Recording(given.video[:36], given.fps, given.audio, 1000).duration_s == 1.5


def test_bytes_are_the_same_pictures():
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(0, 256, (48, 3, 20, 30), generator=generator, dtype=torch.uint8)
    sound = torch.zeros(2000)
    bytes_clip = Recording(given, 24.0, sound, 1000).clip(0.0, 16)
    float_clip = Recording(given.float() / 255, 24.0, sound, 1000).clip(0.0, 16)
    assert bytes_clip.frames.shape == (12, 3, 16, 16)
    torch.testing.assert_close(bytes_clip.frames, float_clip.frames)


def test_the_middle_is_kept():
    wide = torch.zeros(1, 3, 20, 60)
    wide[..., 20:40] = 1
    assert trimmed(wide, 10).min() > 0.99
    assert trimmed(wide.transpose(2, 3), 10).min() > 0.99
    assert trimmed(wide, (10, 30)).mean() == pytest.approx(1 / 3, abs=0.02)
