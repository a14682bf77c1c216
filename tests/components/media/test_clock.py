"""Counts and spans that follow from a clip's shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.media.clock import ClipShape, longest_clip

FPS = st.sampled_from([8.0, 12.0, 16.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0])
RATES = st.sampled_from([8000, 16000, 22050, 24000, 44100, 48000])


@given(num_frames=st.integers(1, 1000), fps=FPS, rate=RATES)
def test_frames_and_samples_give_each_other(num_frames: int, fps: float, rate: int) -> None:
    """The sound of a clip covers its pictures to half a sample, and says how many they are."""
    clip = ClipShape(num_frames, fps, 16, 16, rate)
    assert abs(clip.num_samples / rate - clip.duration_s) <= 0.5 / rate + 1e-12
    assert clip.frames_of(clip.num_samples) == num_frames
    assert clip.samples_of(num_frames) == clip.num_samples


@given(held=st.integers(1, 2000), step=st.integers(1, 16))
def test_the_longest_clip_is_the_last_that_fits(held: int, step: int) -> None:
    frames = longest_clip(held, step)
    assert (frames - 1) % step == 0
    assert frames <= held < frames + step


@given(num_frames=st.integers(1, 300), least=st.integers(1, 300), held=st.integers(1, 400), step=st.integers(1, 16))
def test_clips_lie_between_the_shortest_and_the_whole(num_frames: int, least: int, held: int, step: int) -> None:
    clip = ClipShape(num_frames, min_frames=min(least, num_frames))
    shortest, longest = clip.shortest(step), clip.longest(held, step)
    assert min(least, num_frames) <= shortest <= longest <= num_frames
    assert longest <= held or longest == shortest
    assert longest == num_frames or (longest - 1) % step == 0


@pytest.mark.parametrize("name", ["num_frames", "fps", "height", "width", "sample_rate", "min_frames"])
@pytest.mark.parametrize("value", [0, -3, float("inf")])
def test_numbers_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"clip\.{name} is {value}; it must be positive"):
        ClipShape(**{name: value})
