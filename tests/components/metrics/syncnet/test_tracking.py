import numpy as np
import pytest
import scipy.signal
import torch
from torch.nn.functional import interpolate

from components.errors import InputError
from components.metrics.syncnet.tracking import FaceTrack, FaceTracker

BOX = (30.0, 40.0, 50.0, 60.0)
OTHER = (80.0, 10.0, 110.0, 40.0)


def tracker(**kwargs):
    return FaceTracker(**{"min_track": 6, "min_face_size": 5, **kwargs})


def moved(box, by):
    return tuple(edge + by for edge in box)


def test_two_faces_are_two_tracks_and_gaps_are_interpolated():
    frames = [[moved(BOX, n), moved(OTHER, -n)] for n in range(20)]
    frames[7] = frames[8] = []
    found = tracker().tracks(frames)
    assert [(track.first_frame, len(track.boxes)) for track in found] == [(0, 20), (0, 20)]
    for n in range(20):
        np.testing.assert_allclose(found[0].boxes[n], moved(BOX, n), atol=1e-9)
        np.testing.assert_allclose(found[1].boxes[n], moved(OTHER, -n), atol=1e-9)


def test_long_gaps_and_jumps_end_a_track():
    seen = [[BOX]] * 10
    assert len(tracker(max_gap=3).tracks([*seen, [], [], *seen])) == 1
    assert [track.first_frame for track in tracker(max_gap=3).tracks([*seen, [], [], [], *seen])] == [0, 13]
    assert len(tracker().tracks([*seen, *[[moved(BOX, 12)]] * 10])) == 2


def test_short_and_small_faces_do_not_count():
    assert tracker(min_track=10).tracks([[BOX]] * 10) == []
    assert len(tracker(min_track=9).tracks([[BOX]] * 10)) == 1
    assert tracker(min_face_size=20).tracks([[BOX]] * 10) == []
    assert tracker().tracks([[]] * 10) == tracker().tracks([]) == []


def test_a_box_behind_a_taken_one_waits_for_the_next_pass():
    """The published pipeline's quirk: of two nearly equal boxes in a frame the second makes a track of its own."""
    found = tracker().tracks([[BOX, moved(BOX, 1)]] * 10)
    assert [len(track.boxes) for track in found] == [10, 10]
    np.testing.assert_allclose(found[1].boxes[0], moved(BOX, 1))
    # a third one is read again and joins the first track, where it has the last word
    found = tracker().tracks([[BOX, moved(BOX, 1), moved(BOX, 2)]] * 10)
    np.testing.assert_allclose(found[0].boxes[4], moved(BOX, 2))


def test_smoothing_equals_scipy():
    rng = np.random.default_rng(0)
    boxes = np.array([(x, y, x + s, y + s + 3) for x, y, s in rng.uniform(20, 40, (30, 3))])
    found = FaceTracker().smoothed(FaceTrack(0, boxes))
    raw = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 3] - boxes[:, 1]) / 2
    for values, expected in zip(found, raw, strict=True):
        np.testing.assert_allclose(values, scipy.signal.medfilt(expected, 13))


def test_the_crop_is_wider_than_the_box_and_lies_lower():
    frames = torch.rand(14, 3, 100, 120, generator=torch.Generator().manual_seed(0))
    track = FaceTrack(0, np.array([BOX] * 14))
    crop = FaceTracker().crops(track)[7]
    assert crop.padding == 18
    # centre (40, 50), half side 10: rows 40 .. 68, columns 26 .. 54 of the picture
    assert [edge - 18 for edge in (crop.top, crop.bottom, crop.left, crop.right)] == [40, 68, 26, 54]
    found = FaceTracker().cut(frames, track, 64)
    assert found.shape == (14, 3, 64, 64)
    expected = interpolate(frames[7:8, :, 40:68, 26:54], (64, 64), mode="bilinear")
    torch.testing.assert_close(found[7:8], expected)


def test_outside_of_the_picture_is_grey():
    frames = torch.zeros(14, 3, 100, 120)
    found = FaceTracker().cut(frames, FaceTrack(0, np.array([moved(BOX, -40)] * 14)), 32)
    assert found[7, :, 0, 0].tolist() == pytest.approx([110 / 255] * 3)
    assert found[7, :, -1, -1].tolist() == [0, 0, 0]


def test_bad_settings():
    with pytest.raises(InputError, match="smoothing is 12"):
        FaceTracker(smoothing=12)
    with pytest.raises(InputError, match="min_track is 2; give at least 6"):
        FaceTracker(min_track=2)
