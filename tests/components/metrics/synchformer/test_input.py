import numpy as np
import pytest
import torch
from PIL import Image

from components.metrics.synchformer.input import (
    SEGMENT_SAMPLES,
    at_synchformer_rates,
    mel_segments,
    network_pictures,
    num_segments,
    picture_segments,
)


@pytest.mark.parametrize(
    ("frames", "samples", "count"),
    [
        (125, 80_000, 14),  # 5 s
        (120, 76_800, 14),  # exactly one window
        (119, 76_800, 13),
        (120, 76_799, 13),
        (50, 32_000, 5),  # 2 s
        (16, 10_240, 1),
        (15, 10_240, 0),
        (16, 10_239, 0),
        (0, 0, 0),
    ],
)
def test_segments_are_what_both_tracks_fill(frames, samples, count):
    assert num_segments(frames, samples) == count


def test_five_seconds_at_24_frames_are_one_window():
    video, audio = at_synchformer_rates(torch.zeros(121, 3, 2, 2), 24.0, torch.zeros(round(121 / 24 * 44_100)), 44_100)
    assert num_segments(len(video), len(audio)) == 14


def test_picture_segments_overlap_by_half():
    frames = torch.arange(40.0).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    segments = picture_segments(frames, 3)
    assert segments.shape == (3, 16, 3, 2, 2)
    assert segments[:, :, 0, 0, 0].tolist() == [[8 * segment + frame for frame in range(16)] for segment in range(3)]


@torch.no_grad()
def test_sound_segments_overlap_by_half_and_are_made_alone():
    audio = torch.randn(4 * SEGMENT_SAMPLES, generator=torch.Generator().manual_seed(0)) / 10
    segments = mel_segments(audio, 7)
    assert segments.shape == (7, 128, 66)
    start = 3 * SEGMENT_SAMPLES // 2
    torch.testing.assert_close(segments[3:4], mel_segments(audio[start : start + SEGMENT_SAMPLES], 1))
    # the last frame is no sound: 0 before it is normalised
    assert (segments[:, :, -1] == 4.2677393 / (2 * 4.5689974)).all()


def test_silence_is_the_floor():
    floor = (np.log(1e-6) + 4.2677393) / (2 * 4.5689974)
    assert mel_segments(torch.zeros(SEGMENT_SAMPLES), 1)[..., :-1].numpy() == pytest.approx(floor, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (300, 260), (224, 398)])
def test_pictures_are_scaled_as_pillow_does_and_cropped_about_the_centre(height, width):
    draw = np.random.RandomState(0)
    small = Image.fromarray(draw.randint(0, 256, (height // 8, width // 8, 3), np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    short = min(height, width)
    rows, columns = 224 * height // short, 224 * width // short
    scaled = np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC))
    top, left = (rows - 224) // 2, (columns - 224) // 2
    expected = scaled[top : top + 224, left : left + 224] / 127.5 - 1
    frames = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    found = network_pictures(frames)[0].permute(1, 2, 0).numpy()
    assert found.shape == (224, 224, 3) and abs(found).max() <= 1
    assert np.abs(found - expected).max() < 3 / 127.5


def test_pictures_of_the_right_size_are_not_touched():
    frames = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network_pictures(frames), 2 * frames - 1)
