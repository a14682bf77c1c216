import pytest
import torch

from components.metrics.imagebind.clips import loader_sounds, loader_starts, video_pairs


def counted(num_frames, side=4):
    """``[T, 3, side, side]`` whose frame n is n / 1000."""
    return (torch.arange(num_frames) / 1000).view(-1, 1, 1, 1).expand(-1, 3, side, side)


def numbers(pairs):
    return (1000 * pairs[:, :, 0, 0, 0]).round().int().tolist()


def test_starts_are_even_and_the_last_clip_ends_with_the_recording():
    # as ConstantClipsPerVideoSampler of pytorchvideo 28fe037 has them
    assert loader_starts(5.0, 3) == pytest.approx([0, 1.5, 3])
    assert loader_starts(5.0, 5) == pytest.approx([0, 0.75, 1.5, 2.25, 3])
    assert loader_starts(5.0, 1) == [0]
    assert loader_starts(1.5, 3) == [0, 0, 0]


def test_sounds():
    sound = torch.arange(5 * 16_000).float()
    assert [(int(part[0]), len(part)) for part in loader_sounds(sound)] == [
        (0, 32_000),
        (24_000, 32_000),
        (48_000, 32_000),
    ]
    (only,) = loader_sounds(sound[:20_000])
    assert torch.equal(only, sound[:20_000])


def test_five_clips_by_their_first_and_last_frame_in_three_crops():
    pairs = video_pairs(counted(5 * 24), 24.0, 4, "imagebind")
    assert pairs.shape == (15, 2, 3, 4, 4)
    assert numbers(pairs)[:5] == [[0, 47], [18, 65], [36, 83], [54, 101], [72, 119]]
    assert numbers(pairs)[5:10] == numbers(pairs)[:5]
    assert numbers(video_pairs(counted(30), 24.0, 4, "imagebind")) == [[0, 29]] * 3
    assert numbers(video_pairs(counted(1), 24.0, 4, "imagebind")) == [[0, 0]] * 3


def test_neighbours_at_half_a_frame_per_second():
    pairs = video_pairs(counted(8 * 24), 24.0, 4, "av_benchmark")
    assert numbers(pairs)[:3] == [[23, 71], [71, 119], [119, 167]]
    assert len(pairs) == 9
    assert numbers(video_pairs(counted(100), 25.0, 4, "av_benchmark"))[0] == [24, 74]
