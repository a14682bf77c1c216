import pytest
import torch

from components.errors import InputError
from components.metrics.imagebind.javis import JavisWindows, Window, avh_score, javis_score

ALIKE, ACROSS = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_windows_overlap_and_the_last_ends_with_the_clip():
    found = JavisWindows().of(121, 80_640, 24.0)
    assert [window.frames for window in found][-2:] == [(72, 120), (73, 121)]
    assert [window.samples for window in found][-2:] == [(48_000, 80_000), (48_640, 80_640)]
    # lengths are rounded down: 50 and 37 frames
    assert [window.frames[0] for window in JavisWindows().of(100, 64_000, 25.0)] == [0, 13, 26, 39, 50]
    assert [window.samples[0] for window in JavisWindows().of(100, 64_000, 25.0)] == [0, 8000, 16_000, 24_000, 32_000]


def test_the_shorter_of_picture_and_sound_decides():
    assert len(JavisWindows().of(96, 40_000, 24.0)) == 2
    assert JavisWindows().of(96, 32_000, 24.0) == [Window((0, 96), (0, 32_000))]
    assert JavisWindows().of(48, 64_000, 24.0) == [Window((0, 48), (0, 64_000))]


def test_other_windows():
    found = JavisWindows(0.5, 0.0).of(24, 16_000, 24.0)
    assert found == [Window((0, 12), (0, 8000)), Window((12, 24), (8000, 16_000))]
    for window_s, overlap_s in ((0.5, 0.5), (1.0, -0.1), (0.0, 0.0)):
        with pytest.raises(InputError, match=f"overlap_s is {overlap_s} and window_s is {window_s}"):
            JavisWindows(window_s, overlap_s)


def test_the_lowest_cosines_count():
    frames = torch.stack([ALIKE] * 7 + [ACROSS] * 3)
    window = [Window((0, 10), (0, 1))]
    assert avh_score(frames, ALIKE) == pytest.approx(0.7)
    assert javis_score(frames, ALIKE[None], window) == pytest.approx(1 / 4)  # 4 of 10: three of them 0
    assert javis_score(frames, ALIKE[None], window, lowest=1.0) == pytest.approx(0.7)
    assert javis_score(frames, ALIKE[None], window, lowest=0.01) == 0  # one frame at least
    assert javis_score(frames[1:], ALIKE[None], [Window((0, 9), (0, 1))]) == 0  # 3.6 are 3
    assert javis_score(frames[:7], ALIKE[None], [Window((0, 7), (0, 1))]) == pytest.approx(1)


def test_every_window_has_its_own_sound():
    frames = torch.stack([ALIKE] * 5 + [ACROSS] * 5)
    windows = [Window((0, 5), (0, 1)), Window((5, 10), (1, 2))]
    assert javis_score(frames, torch.stack([ALIKE, ACROSS]), windows) == pytest.approx(1)
    assert javis_score(frames, torch.stack([ACROSS, ALIKE]), windows) == pytest.approx(0)
