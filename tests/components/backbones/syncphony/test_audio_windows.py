"""Which audio tokens a latent frame attends to, and where both stand on the shared time axis."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.backbones.pyramid_flow.column import layout_rope, token_layout
from components.backbones.rope import rotary_table
from components.backbones.syncphony.audio_windows import (
    AudioTimeline,
    AudioWindows,
    RotaryAxes,
    latent_position,
    latent_spans_s,
)
from components.codecs.video.pixel import PixelCodec
from components.errors import InputError
from tests.tiny_syncphony import audio_features


def tokens_of(windows: AudioWindows, latent: int, row: int = 0) -> list[int]:
    """The token indices latent frame ``latent`` attends to."""
    return windows.index[latent][windows.audible[row, latent]].tolist()


def test_position_at_24_fps_and_factor_8_is_3t_plus_0375():
    seconds = torch.linspace(0, 10, 101, dtype=torch.float64)
    torch.testing.assert_close(latent_position(seconds, 24.0, 8), 3 * seconds + 0.375, atol=1e-12, rtol=0)


@settings(deadline=None)
@given(fps=st.floats(1, 120), factor=st.integers(1, 16), latent=st.integers(1, 200))
def test_later_latents_have_their_centre_at_their_index(fps: float, factor: int, latent: int):
    spans = latent_spans_s(latent + 1, fps, factor)
    centres = latent_position(spans.mean(dim=1), fps, factor)
    assert float(centres[latent]) == pytest.approx(latent, abs=1e-9)
    assert float(centres[0]) == pytest.approx(0.5 - 1 / (2 * factor), abs=1e-9)


def test_spans_are_the_frames_time_on_screen():
    spans = latent_spans_s(16, 24.0, 8)
    assert spans[0].tolist() == [0, 1 / 24]
    assert spans[1].tolist() == [1 / 24, 9 / 24]
    assert spans[15].tolist() == [113 / 24, 121 / 24]
    codec = PixelCodec(temporal_factor=8)
    for latent, (start, end) in enumerate(spans.tolist()):
        before = codec.num_frames(latent) if latent else 0  # frames of the latents before this one
        assert (start, end) == pytest.approx((before / 24, codec.num_frames(latent + 1) / 24), abs=1e-12)


def test_tokens_per_latent_are_those_of_the_specification():
    """121 frames at 24 fps, 50 Hz tokens centred at (j + 0.5) / 50 s."""
    windows = AudioTimeline().windows(audio_features(1, 121 / 24 + 0.1), 16, 16, 24.0, 8)
    table = {0: (0, 1), 1: (2, 18), 2: (19, 34), 15: (235, 251)}
    for latent, (first, last) in table.items():
        assert tokens_of(windows, latent) == list(range(first, last + 1))
    counts = [len(tokens_of(windows, latent)) for latent in range(1, 16)]
    assert set(counts) == {16, 17}


def test_look_back_and_look_ahead_reach_to_the_token():
    audio = audio_features(1, 2.0)
    for back, ahead in [(0.1, 0.0), (0.0, 0.07), (0.2, 0.2), (0.0033, 0.0051)]:
        windows = AudioTimeline(look_back_s=back, look_ahead_s=ahead).windows(audio, 4, 16, 24.0, 8)
        for latent, (start, end) in enumerate(latent_spans_s(4, 24.0, 8).tolist()):
            expected = [j for j in range(100) if start - back <= (j + 0.5) / 50 < end + ahead]
            assert tokens_of(windows, latent) == expected


def test_one_latent_either_side_is_the_spans_of_three_latents():
    """The paper's Delta = 1; latent 0 is one frame, so in seconds the windows are not alike."""
    spans = latent_spans_s(6, 24.0, 8).tolist()
    audio = audio_features(1, 5.0)
    windows = AudioTimeline(reach_latents=1).windows(audio, 5, 16, 24.0, 8)
    for latent in range(5):  # the last one too hears what the next one will
        start, end = spans[max(latent - 1, 0)][0], spans[latent + 1][1]
        assert tokens_of(windows, latent) == [j for j in range(250) if start <= (j + 0.5) / 50 < end]
    both = AudioTimeline(reach_latents=1, look_back_s=0.1, look_ahead_s=0.2).windows(audio, 5, 16, 24.0, 8)
    start, end = spans[1][0] - 0.1, spans[3][1] + 0.2
    assert tokens_of(both, 2) == [j for j in range(250) if start <= (j + 0.5) / 50 < end]


def test_a_window_does_not_depend_on_the_clips_length():
    audio, timeline = audio_features(1, 5.0), AudioTimeline(reach_latents=2)
    short, long = (timeline.windows(audio, num, 16, 24.0, 8) for num in (3, 9))
    assert [tokens_of(short, latent) for latent in range(3)] == [tokens_of(long, latent) for latent in range(3)]


def test_windows_are_half_open():
    """A token centred exactly on an edge belongs to the later latent."""
    windows = AudioTimeline().windows(audio_features(1, 1.0, 25.0, 0.0), 4, 16, 25.0, 5)
    assert [tokens_of(windows, latent) for latent in range(4)] == [
        [0],
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 12, 13, 14, 15],
    ]


@settings(deadline=None, max_examples=60)
@given(
    fps=st.floats(5, 60),
    factor=st.integers(1, 9),
    latents=st.integers(1, 12),
    rate=st.floats(5, 120),
    offset=st.floats(0, 0.05),
)
def test_without_reach_every_token_belongs_to_exactly_one_latent(
    fps: float, factor: int, latents: int, rate: float, offset: float
):
    end = float(latent_spans_s(latents, fps, factor)[-1, 1])
    audio = audio_features(1, end + 0.5, rate, offset)
    windows = AudioTimeline().windows(audio, latents, 16, fps, factor)
    everyone = [token for latent in range(latents) for token in tokens_of(windows, latent)]
    centres = [offset + j / rate for j in range(audio.tokens.shape[1])]
    expected = [j for j, centre in enumerate(centres) if centre < end - 2e-9]
    assert everyone[: len(expected)] == expected
    assert everyone == sorted(set(everyone))


def test_padding_and_what_lies_behind_the_sound_are_not_audible():
    audio = audio_features(2, 0.5)  # 25 tokens: latent 3 begins at 17/24 s, after the last one
    mask = audio.mask.clone()
    mask[1, 10:] = False
    windows = AudioTimeline().windows(dataclasses.replace(audio, mask=mask), 4, 16, 24.0, 8)
    assert tokens_of(windows, 2, row=0) == list(range(19, 25))
    assert tokens_of(windows, 1, row=1) == list(range(2, 10))
    assert tokens_of(windows, 2, row=1) == []
    assert tokens_of(windows, 3, row=0) == tokens_of(windows, 3, row=1) == []
    assert int(windows.index.max()) < 25


def test_rows_gathers_audibility():
    audio = audio_features(3, 1.0)
    mask = audio.mask.clone()
    mask[2] = False
    windows = AudioTimeline().windows(dataclasses.replace(audio, mask=mask), 3, 16, 24.0, 8)
    picked = windows.rows(torch.tensor([2, 0, 2]))
    assert picked.audible.shape[0] == 3
    assert not picked.audible[0].any() and not picked.audible[2].any()
    assert torch.equal(picked.audible[1], windows.audible[0])


def test_tables_hold_centres_of_frames_and_tokens():
    timeline = AudioTimeline(rope_theta=50.0, rope_time_scale=16.0)
    audio = audio_features(1, 1.0)
    windows = timeline.windows(audio, 3, 8, 24.0, 8)
    frames = torch.tensor([0.4375, 1.0, 2.0], dtype=torch.float64) * 16
    # up to the last that a window reads: latent 2 ends at 17 / 24 s
    tokens = (3 * (torch.arange(36, dtype=torch.float64) + 0.5) / 50 + 0.375) * 16
    torch.testing.assert_close(windows.query_rope, rotary_table(frames[:, None], [8], 50.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(windows.key_rope, rotary_table(tokens[:, None], [8], 50.0), atol=1e-6, rtol=0)


def test_the_backbones_axes_place_tokens_at_their_time_and_nowhere_in_space():
    audio, axes = audio_features(1, 1.0), RotaryAxes((4, 2, 2), 50.0)
    windows = AudioTimeline(rope="backbone").windows(audio, 3, 8, 24.0, 8, axes)
    assert windows.query_rope == axes
    at = 3 * (torch.arange(36, dtype=torch.float64) + 0.5) / 50 + 0.375
    places = torch.stack([at, torch.zeros(36).double(), torch.zeros(36).double()], dim=1)
    torch.testing.assert_close(windows.key_rope, rotary_table(places, [4, 2, 2], 50.0), atol=1e-6, rtol=0)


def test_the_backbones_axes_place_queries_where_the_joint_attention_has_them():
    """Row by row of the table that the transformer's own blocks rotate with, history stretched as there."""
    axes = RotaryAxes((4, 6, 6))
    layout = token_layout(((2, 1, 2), (1, 2, 4)), 3, torch.device("cpu"))
    own = layout_rope(layout, axes.dims)  # [2, S, d / 2], text first
    windows = AudioTimeline(rope="backbone").windows(audio_features(1, 1.0), 3, 16, 24.0, 8, axes)
    assert torch.equal(windows.query_table(layout), own[:, 3:])


def test_the_time_axis_places_every_patch_of_a_latent_at_its_centre():
    layout = token_layout(((2, 1, 2), (1, 2, 4)), 3, torch.device("cpu"))
    windows = AudioTimeline().windows(audio_features(1, 1.0), 3, 16, 24.0, 8)
    table, latent_of_token = windows.query_table(layout), [0] * 2 + [1] * 2 + [2] * 8
    assert torch.equal(table, windows.query_rope[:, latent_of_token])
    later = token_layout(((1, 2, 4),), 0, torch.device("cpu"), first_frame=2)  # the frames before are in memory
    assert torch.equal(windows.query_table(later), windows.query_rope[:, [2] * 8])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"look_back_s": -0.1}, "look_back_s -0.1"),
        ({"look_ahead_s": -1.0}, "look_ahead_s -1.0"),
        ({"reach_latents": -1}, "reach_latents -1"),
        ({"rope": "rows"}, "rope is 'rows'; give time or backbone"),
        ({"rope": "backbone", "rope_time_scale": 16.0}, "leave rope_theta and rope_time_scale out"),
        ({"rope": "backbone", "rope_theta": 64.0}, "leave rope_theta and rope_time_scale out"),
    ],
)
def test_impossible_settings_are_named(settings_: dict, message: str):
    with pytest.raises(InputError, match=message):
        AudioTimeline(**settings_)
