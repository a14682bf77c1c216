from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.scorers import real_clips
from components.metrics.sound_offsets import with_exchanged_sound, with_sound_at, with_sound_moved

RATE = 1000


def clips(num_frames=48, fps=24.0, seconds=None, ids=("a", "b"), recordings=("x", "y")) -> Generation:
    """Frames and samples that hold their own time; the sounds of the clips differ by whole 100 s."""
    num_samples = round((seconds or num_frames / fps) * RATE)
    times = (torch.arange(num_frames) / fps).reshape(1, -1, 1, 1, 1).expand(len(ids), -1, 3, 2, 2)
    sounds = torch.arange(num_samples, dtype=torch.float64) / RATE + 100.0 * torch.arange(len(ids))[:, None]
    batch = ClipBatch(
        list(ids), torch.zeros(len(ids), num_frames, 3, 2, 2), fps, sounds, RATE, [""] * len(ids), recordings
    )
    return replace(real_clips(batch), video=times)


def lag_s(generation: Generation) -> float:
    """How much later than its picture the sound of the first clip is."""
    return (generation.video[0, 0, 0, 0, 0].double() - generation.audio[0, 0]).item()


def test_no_offset_leaves_clips_as_they_are():
    given_clips = clips()
    for found in (with_sound_moved(given_clips, 0.0), with_sound_at(given_clips, [0.0])[0.0]):
        assert found.video is given_clips.video and found.audio is given_clips.audio
        assert found.reference is given_clips.reference


@pytest.mark.parametrize(
    ("offset_s", "first_frame", "first_s", "num_frames"),
    [(0.25, 6, 0.0, 42), (-0.25, 0, 0.25, 42), (0.3, 8, 8 / 24 - 0.3, 40), (-0.3, 0, 0.3, 40)],
)
def test_what_is_left_by_hand(offset_s, first_frame, first_s, num_frames):
    found = with_sound_moved(clips(), offset_s)
    assert found.video.shape[1] == num_frames
    assert found.video[0, 0, 0, 0, 0].item() == pytest.approx(first_frame / 24)
    assert found.audio[0, 0].item() == pytest.approx(first_s, abs=0.5 / RATE)
    assert found.audio.shape[1] == round(num_frames / 24 * RATE)


OFFSETS = st.floats(-0.9, 0.9).map(lambda offset: round(offset, 3))
RATES = st.sampled_from([8.0, 24.0, 25.0, 29.97])


@settings(deadline=None)
@given(offset_s=OFFSETS, fps=RATES)
def test_the_sound_is_later_by_the_offset(offset_s, fps):
    found = with_sound_moved(clips(round(2 * fps), fps), offset_s)
    assert lag_s(found) == pytest.approx(offset_s, abs=0.5 / RATE + 1e-5)
    # both tracks go on to the end: there is a sound for every frame that is left
    assert abs(found.audio.shape[1] - found.video.shape[1] / fps * RATE) <= 1.5


@settings(deadline=None)
@given(offset_s=st.floats(0.0, 0.45).map(lambda offset: round(offset, 3)), fps=RATES, later_first=st.booleans())
def test_there_and_back_again_leaves_the_common_middle(offset_s, fps, later_first):
    whole = clips(round(2 * fps), fps)
    first = offset_s if later_first else -offset_s
    found = with_sound_moved(with_sound_moved(whole, first), -first)
    lost = -int(-offset_s * fps // 1) if (offset_s * fps) % 1 > 1e-4 else round(offset_s * fps)
    assert torch.equal(found.video, whole.video[:, lost : whole.video.shape[1] - lost])
    assert lag_s(found) == pytest.approx(0.0, abs=1 / RATE + 1e-5)
    assert abs(found.audio.shape[1] - found.video.shape[1] / fps * RATE) <= 1.5


@settings(deadline=None)
@given(offsets=st.lists(OFFSETS.filter(lambda s: abs(s) <= 0.85), min_size=1, max_size=5, unique=True), fps=RATES)
def test_all_points_of_a_curve_have_the_same_picture(offsets, fps):
    curve = with_sound_at(clips(round(2 * fps), fps), offsets)
    assert list(curve) == offsets
    pictures = [found.video for found in curve.values()]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    for offset_s, found in curve.items():
        assert lag_s(found) == pytest.approx(offset_s, abs=0.5 / RATE + 1e-5)
        assert abs(found.audio.shape[1] - found.video.shape[1] / fps * RATE) <= 1.5


def test_a_sound_that_ends_early_stays_as_short():
    assert with_sound_moved(clips(seconds=1.5), 0.0).audio.shape[1] == 1500
    assert with_sound_moved(clips(seconds=1.5), -0.25).audio.shape[1] == 1250
    assert with_sound_moved(clips(seconds=1.5), 0.25).audio.shape[1] == 1500


def test_variants_are_left_out_and_the_rest_is_kept():
    given_clips = replace(clips(), variants={"w0": clips()}, valid=torch.tensor([True, False]))
    for found in (
        with_sound_moved(given_clips, 0.25),
        with_sound_at(given_clips, [0.0, 0.25])[0.0],
        with_exchanged_sound(given_clips),
    ):
        assert not found.variants
        assert found.reference is given_clips.reference and found.valid is given_clips.valid
        assert (found.fps, found.sample_rate) == (given_clips.fps, given_clips.sample_rate)


@pytest.mark.parametrize("offset_s", [2.0, -2.0, 5.0])
def test_an_offset_that_leaves_nothing_is_refused(offset_s):
    with pytest.raises(InputError, match=rf"moved by {offset_s:g} s in clips of 2 s: no frame would be left"):
        with_sound_moved(clips(), offset_s)
    with pytest.raises(InputError, match="no frame would be left"):
        with_sound_at(clips(), [1.0, -1.0])


def test_sounds_go_to_the_next_clip_of_another_recording():
    ids, recordings = ("d", "a", "c", "b"), ("y", "x", "y", "x")
    found = with_exchanged_sound(clips(ids=ids, recordings=recordings))
    # in the order of ids: a (x), b (x), c (y), d (y); a and b take c's sound, c and d take a's
    assert (found.audio[:, 0] // 100).long().tolist() == [1, 2, 1, 2]
    assert torch.equal(found.video, clips(ids=ids).video)


def test_one_recording_has_nobody_to_exchange_sounds_with():
    with pytest.raises(InputError, match="clip a cannot be given another recording's sound: all 2 clips come from x"):
        with_exchanged_sound(clips(recordings=("x", "x")))
