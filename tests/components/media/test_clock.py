"""Counts and spans that follow from a clip's shape, and the clock of the latents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.media.clock import ClipShape, LatentClock, longest_clip

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


MMAUDIO_44K_HZ = 44100 / 1024
PAPER = LatentClock(24.0, 4, 31.25)  # Wan2.2 beside MMAudio at 16 kHz


def test_linear_positions_are_the_papers():
    positions = PAPER.audio_positions(31, 157, "linear")
    torch.testing.assert_close(positions, torch.arange(157, dtype=torch.float64) * 31 / 157)


def test_causal_knots_lie_on_the_latents_centres():
    """A token centred on frame 0, 2.5, 6.5 ... stands at latent 0, 1, 2 ..."""
    clock = LatentClock(24, 4, 48)  # token j is centred on frame j / 2 + 1/4
    positions = clock.audio_positions(31, 300, "causal")
    frames = torch.arange(300, dtype=torch.float64) / 2 + 0.25
    knots = torch.tensor([0.0, *(4 * i - 1.5 for i in range(1, 31))], dtype=torch.float64)
    inside = frames < knots[-1]
    for frame, position in zip(frames[inside].tolist(), positions[inside].tolist(), strict=True):
        low = int((knots <= frame).sum()) - 1
        share = (frame - knots[low]) / (knots[low + 1] - knots[low])
        assert position == pytest.approx(low + share.item(), abs=1e-12)


def test_the_linear_map_is_late_at_the_start_and_early_at_the_end():
    error_ms = 1000 * (PAPER.video_centers_s(31, "linear") - PAPER.video_centers_s(31, "causal"))
    assert error_ms[0] == 0
    assert error_ms[1].item() == pytest.approx(58.4677, abs=1e-3)
    assert error_ms[30].item() == pytest.approx(-58.4677, abs=1e-3)
    assert error_ms.abs().max() < 60


@pytest.mark.parametrize(
    ("num_audio", "half_window", "heard", "seen"),
    [
        (157, 0, (6, 7), (1, 2)),
        (157, 1, (11, 17), (2, 4)),
        (157, 2, (16, 27), (3, 6)),
        (217, 0, (7, 7), (1, 1)),
        (217, 1, (14, 21), (2, 3)),
        (217, 2, (21, 35), (3, 5)),
        (157, None, (157, 157), (31, 31)),
    ],
)
def test_window_sizes(num_audio, half_window, heard, seen):
    relation = PAPER.relation(31, num_audio, half_window, "linear")
    for counts, (low, high) in ((relation.sum(1), heard), (relation.sum(0), seen)):
        assert (counts.min().item(), counts.max().item()) == (low, high)


@pytest.mark.parametrize(
    ("num_audio", "rate_hz", "num_video"), [(157, 31.25, 31), (314, 31.25, 61), (217, MMAUDIO_44K_HZ, 31)]
)
def test_video_latents_of_a_sound(num_audio, rate_hz, num_video):
    assert LatentClock(24, 4, rate_hz).num_video_latents(num_audio) == num_video


@given(
    num_video=st.integers(1, 40),
    num_audio=st.integers(1, 200),
    half_window=st.sampled_from([0, 0.25, 0.5, 1, 2, 5]),
    time_map=st.sampled_from(["linear", "causal"]),
)
def test_windows_are_runs_that_move_forward_and_grow(num_video, num_audio, half_window, time_map):
    relation = PAPER.relation(num_video, num_audio, half_window, time_map)
    assert bool((PAPER.relation(num_video, num_audio, half_window + 1, time_map) | ~relation).all()), (
        "wider sees no less"
    )
    token = torch.arange(num_audio)
    starts = [token[row].min().item() for row in relation if row.any()]
    assert starts == sorted(starts)
    for row in relation:
        if row.any():
            assert row.sum() == token[row].max() - token[row].min() + 1
    if time_map == "linear":
        assert relation.any(dim=0).all()
        assert relation.any(dim=1).all()


def test_rates_must_be_positive():
    for rates, message in (((0, 4, 31.25), "video_fps 0"), ((24, 0, 31.25), "factor 0"), ((24, 4, 0), "rate_hz 0")):
        with pytest.raises(ValueError, match=message):
            LatentClock(*rates)
