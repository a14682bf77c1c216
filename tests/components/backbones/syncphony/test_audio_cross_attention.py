"""The audio layer against a loop over frames, and which sound it can and cannot attend to."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.backbones.pyramid_flow.column import TokenLayout, token_layout
from components.backbones.rope import rotary_table
from components.backbones.syncphony.audio_cross_attention import AudioContext, AudioCrossAttention, AudioKeysValues
from components.backbones.syncphony.audio_windows import (
    AudioTimeline,
    AudioWindows,
    RotaryAxes,
    latent_position,
    latent_spans_s,
)
from components.backbones.syncphony.listening import Listening
from components.contracts import AudioFeatures
from tests.tiny_syncphony import FPS, TEMPORAL_FACTOR, generator, randomise

DIM, HEADS, NUM_TEXT, ROWS = 32, 2, 3, 2
SHAPES = ((2, 1, 2), (1, 2, 4), (1, 2, 4))  # two frames at level 0, one at level 1, the current one
TIMELINE = AudioTimeline()
AXES = RotaryAxes((4, 6, 6), 30.0)  # time, row, column of a head of 16 channels
THREE_AXES = AudioTimeline(reach_latents=1, rope="backbone")


def audio_tokens(batch: int = ROWS, num: int = 70, seed: int = 0, rate_hz: float = 50.0) -> AudioFeatures:
    """Already embedded audio."""
    tokens = torch.randn(batch, num, DIM, generator=generator(seed))
    return AudioFeatures(tokens, rate_hz, torch.ones(batch, num, dtype=torch.bool), 0.5 / rate_hz)


def position(seconds: Tensor) -> Tensor:
    return latent_position(seconds, FPS, TEMPORAL_FACTOR)


def the_layout() -> TokenLayout:
    return token_layout(SHAPES, NUM_TEXT, torch.device("cpu"))


def layer(seed: int = 0) -> AudioCrossAttention:
    made = AudioCrossAttention(DIM, HEADS)
    randomise(made, seed)
    return made.requires_grad_(False)


def video_tokens(rows: int = ROWS, seed: int = 1) -> Tensor:
    return torch.randn(rows, 20, DIM, generator=generator(seed))


def keys_values(made: AudioCrossAttention, tokens: Tensor, windows: AudioWindows) -> AudioKeysValues:
    """Of one group of clips, whose embedded tokens are ``[R, N, D]`` and may go on behind what is read."""
    return made.keys_values(tokens[:, : windows.key_rope.shape[1]].flatten(0, 1), [windows])[0]


def change(
    made: AudioCrossAttention, video: Tensor, layout: TokenLayout, sound: AudioKeysValues, windows: AudioWindows
) -> Tensor:
    """Of one column."""
    return made([(video, sound, Listening.of(layout, windows))])[0]


def change_by(
    made: AudioCrossAttention, audio: AudioFeatures, tokens: Tensor, timeline: AudioTimeline = TIMELINE
) -> Tensor:
    windows = timeline.windows(audio, 4, DIM // HEADS, FPS, TEMPORAL_FACTOR, AXES)
    return change(made, tokens, the_layout(), keys_values(made, audio.tokens, windows), windows)


def by_frame(change: Tensor) -> list[Tensor]:
    """The change of each of the four latent frames' tokens."""
    return [change[:, 0:2], change[:, 2:4], change[:, 4:12], change[:, 12:20]]


def naive(made: AudioCrossAttention, audio: AudioFeatures, tokens: Tensor, timeline: AudioTimeline) -> Tensor:
    """Row by row, token by token, head by head, in float64."""
    made = made.double()
    out = []
    reach = timeline.reach_latents
    spans = latent_spans_s(4 + reach, FPS, TEMPORAL_FACTOR).tolist()
    frame_of = [0] * 2 + [1] * 2 + [2] * 8 + [3] * 8
    # on the current clip's 2 x 4 patches; the two of a coarse frame lie in the middle of four each
    coarse, fine = [(0.5, 0.5), (0.5, 2.5)], [(row, col) for row in range(2) for col in range(4)]
    patch_of = [*coarse, *coarse, *fine, *fine]
    d = DIM // HEADS
    centres = [audio.first_center_s + j / audio.rate_hz for j in range(audio.tokens.shape[1])]

    def rotated(vector: Tensor, place: tuple[float, float, float]) -> Tensor:
        if timeline.rope == "backbone":
            angles = [
                at * AXES.theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
                for at, dim in zip(place, AXES.dims, strict=True)
            ]
            angle = torch.cat(angles)
        else:
            frequencies = timeline.rope_theta ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
            angle = place[0] * timeline.rope_time_scale * frequencies
        return torch.view_as_real(torch.view_as_complex(vector.reshape(-1, 2)) * torch.exp(1j * angle)).flatten()

    for row in range(tokens.shape[0]):
        for n, frame in enumerate(frame_of):
            start, end = spans[max(frame - reach, 0)][0], spans[frame + reach][1]
            near = [
                j
                for j, centre in enumerate(centres)
                if start - timeline.look_back_s <= centre < end + timeline.look_ahead_s and audio.mask[row, j]
            ]
            centre_of_frame = float(position(torch.tensor(sum(spans[frame]) / 2, dtype=torch.float64)))
            # the backbone counts latents: the image, whose centre is 0.4375, stands at 0
            query_at = frame if timeline.rope == "backbone" else centre_of_frame
            query = made.to_q(made.norm(tokens[row, n].double())).reshape(HEADS, d)
            joined = []
            for head in range(HEADS):
                q = rotated(made.norm_q(query[head]), (query_at, *patch_of[n]))
                scores, values = [], []
                for j in near:
                    token = audio.tokens[row, j].double()
                    key_at = float(position(torch.tensor(centres[j], dtype=torch.float64)))
                    k = rotated(made.norm_k(made.to_k(token).reshape(HEADS, d)[head]), (key_at, 0.0, 0.0))
                    scores.append((q * k).sum() / math.sqrt(d))
                    values.append(made.to_v(token).reshape(HEADS, d)[head])
                mixed = torch.zeros(d, dtype=torch.float64)
                if near:
                    weights = torch.stack(scores).softmax(0)
                    mixed = (weights[:, None] * torch.stack(values)).sum(0)
                joined.append(mixed)
            out.append(made.to_out(torch.cat(joined)))
    return torch.stack(out).reshape(tokens.shape[0], -1, DIM).float()


@pytest.mark.parametrize(
    "timeline",
    [
        TIMELINE,
        AudioTimeline(look_back_s=0.1, look_ahead_s=0.05, rope_theta=100.0, rope_time_scale=16.0),
        THREE_AXES,
        replace(THREE_AXES, look_back_s=0.05),
    ],
)
def test_equals_a_loop_over_frames_and_tokens(timeline: AudioTimeline):
    audio, tokens = audio_tokens(), video_tokens()
    mask = audio.mask.clone()
    mask[1, 25:30] = False
    audio = replace(audio, mask=mask)
    mine = change_by(layer(), audio, tokens, timeline)
    torch.testing.assert_close(mine, naive(layer(), audio, tokens, timeline), atol=2e-5, rtol=1e-4)


def test_a_fresh_layer_adds_exactly_nothing():
    change = change_by(AudioCrossAttention(DIM, HEADS), audio_tokens(), video_tokens())
    assert change.shape == (ROWS, 20, DIM)
    assert torch.equal(change, torch.zeros_like(change))


def test_groups_of_clips_are_projected_together_as_each_alone():
    """Prefixes of different length, and what is heard behind them is not even looked at."""
    made, audio = layer(), audio_tokens(5)
    groups = [(audio.rows(torch.tensor(rows)), latents) for rows, latents in (([0, 3], 2), ([1], 4), ([4, 2], 1))]
    windows = [AudioTimeline(reach_latents=1).windows(*group, DIM // HEADS, FPS, TEMPORAL_FACTOR) for group in groups]
    sizes = [window.key_rope.shape[1] for window in windows]
    assert sizes == [35, 69, 19]  # up to the end of latents 2, 4 and 1
    packed = torch.cat([sound.tokens[:, :n].flatten(0, 1) for (sound, _), n in zip(groups, sizes, strict=True)])
    together = made.keys_values(packed, windows)
    for found, (sound, num_latents), window in zip(together, groups, windows, strict=True):
        alone = keys_values(made, sound.tokens, window)
        assert found.keys.shape[:2] == (sound.tokens.shape[0], num_latents)
        torch.testing.assert_close(found.keys, alone.keys, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found.values, alone.values, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("token", [0, 1, 2, 18, 19, 34, 35, 51, 52, 69])
def test_a_token_is_attended_to_inside_its_window_only(token: int):
    """Windows without reach: 0-1, 2-18, 19-34, 35-51 for latents 0 to 3; tokens from 52 on are later than the clip."""
    owner = next((i for i, last in enumerate((1, 18, 34, 51)) if token <= last), None)
    before = change_by(layer(), audio_tokens(), video_tokens())
    audio = audio_tokens()
    audio.tokens[:, token] += 1.0
    after = change_by(layer(), audio, video_tokens())
    for frame, (a, b) in enumerate(zip(by_frame(before), by_frame(after), strict=True)):
        if frame == owner:
            assert (a - b).abs().amax(dim=(1, 2)).min() > 1e-4
        else:
            assert torch.equal(a, b)


def test_reach_widens_the_window_to_the_token():
    timeline = AudioTimeline(look_back_s=0.1, look_ahead_s=0.04)  # latent 2: 15/50 .. 37/50 s by centres
    before = by_frame(change_by(layer(), audio_tokens(), video_tokens(), timeline))[2]
    for token, audible in [(13, False), (14, True), (36, True), (37, False)]:
        audio = audio_tokens()
        audio.tokens[:, token] += 1.0
        after = by_frame(change_by(layer(), audio, video_tokens(), timeline))[2]
        start, end = 9 / 24 - 0.1, 17 / 24 + 0.04
        assert (start <= (token + 0.5) / 50 < end) is audible
        assert torch.equal(before, after) is not audible


def test_padded_tokens_are_never_attended_to():
    audio = audio_tokens()
    mask = audio.mask.clone()
    mask[:, 22:28] = False
    audio = replace(audio, mask=mask)
    before = change_by(layer(), audio, video_tokens())
    audio.tokens[:, 22:28] = 1000.0
    assert torch.equal(change_by(layer(), audio, video_tokens()), before)


def test_a_window_of_padding_adds_exactly_the_output_bias():
    made, audio = layer(), audio_tokens()
    mask = audio.mask.clone()
    mask[0, 19:35] = False  # all of latent 2 in row 0
    change = by_frame(change_by(made, replace(audio, mask=mask), video_tokens()))
    assert torch.equal(change[2][0], made.to_out.bias.expand(8, DIM))
    assert not torch.isclose(change[2][1], made.to_out.bias, atol=1e-4).all()
    silent = change_by(made, replace(audio, mask=torch.zeros_like(mask)), video_tokens())
    assert torch.equal(silent, made.to_out.bias.expand(ROWS, 20, DIM))


def test_sound_that_ends_early_leaves_later_frames_with_the_bias():
    made = layer()
    change = by_frame(change_by(made, audio_tokens(num=35), video_tokens()))
    assert torch.equal(change[3], made.to_out.bias.expand(ROWS, 8, DIM))


@pytest.mark.parametrize("scale", [1.0, 16.0])
def test_a_common_shift_of_latents_and_tokens_changes_nothing(scale: float):
    """Audio RoPE knows differences of time only."""
    made, audio, tokens = layer(), audio_tokens(), video_tokens()
    timeline = AudioTimeline(rope_time_scale=scale)
    windows = timeline.windows(audio, 4, DIM // HEADS, FPS, TEMPORAL_FACTOR)
    centres = position(audio.centers_s().double()), position(latent_spans_s(4, FPS, TEMPORAL_FACTOR).mean(dim=1))

    def shifted(by: float, only_tokens: bool = False) -> Tensor:
        keys, queries = (
            rotary_table((at + shift)[:, None] * scale, [DIM // HEADS])
            for at, shift in zip(centres, (by, 0.0 if only_tokens else by), strict=True)
        )
        moved: AudioWindows = replace(windows, query_rope=queries, key_rope=keys)
        return change(made, tokens, the_layout(), keys_values(made, audio.tokens, moved), moved)

    here = change(made, tokens, the_layout(), keys_values(made, audio.tokens, windows), windows)
    for by in (1.0, 7.25, -3.0):
        torch.testing.assert_close(shifted(by), here, atol=2e-5, rtol=1e-4)
    assert (shifted(1.0, only_tokens=True) - here).abs().max() > 1e-2


def test_the_same_sound_one_latent_later_does_the_same_one_latent_later():
    """48 Hz gives 16 tokens per latent, so a shift by 16 tokens is a shift by one latent."""
    made = layer()
    audio = audio_tokens(rate_hz=48.0)
    late = replace(audio, tokens=audio.tokens.roll(16, dims=1))
    tokens = torch.randn(ROWS, 5, DIM, generator=generator(3))
    layout = token_layout(((5, 1, 1),), 0, torch.device("cpu"))
    windows = TIMELINE.windows(audio, 5, DIM // HEADS, FPS, TEMPORAL_FACTOR)
    here = change(made, tokens, layout, keys_values(made, audio.tokens, windows), windows)
    there = change(made, tokens.roll(1, dims=1), layout, keys_values(made, late.tokens, windows), windows)
    torch.testing.assert_close(there[:, 2:5], here[:, 1:4], atol=2e-5, rtol=1e-4)


def test_rows_repeat_the_context_of_clips():
    made, audio, tokens = layer(), audio_tokens(3), video_tokens(3)
    mask = audio.mask.clone()
    mask[1, 20:] = False
    audio = replace(audio, mask=mask)
    windows = TIMELINE.windows(audio, 4, DIM // HEADS, FPS, TEMPORAL_FACTOR)
    context = AudioContext(windows, (keys_values(made, audio.tokens, windows),))
    picked = context.rows(torch.tensor([2, 1, 2]))
    one = change(made, tokens, the_layout(), context.layers[0], windows)
    two = change(made, tokens[[2, 1, 2]], the_layout(), picked.layers[0], picked.windows)
    torch.testing.assert_close(two, one[[2, 1, 2]], atol=1e-6, rtol=1e-6)


def test_three_axes_tell_a_sound_to_patches_by_their_place():
    """The same content in all patches of a frame: on one axis they hear alike, on three by row and column."""
    tokens = video_tokens()
    tokens[:, 12:] = tokens[:, 12:13]
    one, three = (
        by_frame(change_by(layer(), audio_tokens(), tokens, timeline))[3]
        for timeline in (replace(THREE_AXES, rope="time"), THREE_AXES)
    )
    torch.testing.assert_close(one, one[:, :1].expand_as(one), atol=1e-6, rtol=1e-6)
    assert (three - three[:, :1]).abs().amax(dim=(0, 2))[1:].min() > 1e-4


def test_an_axis_for_time_alone_rotates_all_channels_by_it():
    """The SD3 release: the backbone's form is the one-axis form but for the image, which stands at 0."""
    made, audio, tokens = layer(), audio_tokens(), video_tokens()
    windows = [
        timeline.windows(audio, 4, DIM // HEADS, FPS, TEMPORAL_FACTOR, RotaryAxes((DIM // HEADS, 0, 0)))
        for timeline in (AudioTimeline(reach_latents=1), THREE_AXES)
    ]
    mine, one = (by_frame(change(made, tokens, the_layout(), keys_values(made, audio.tokens, w), w)) for w in windows)
    for frame in (1, 2, 3):
        torch.testing.assert_close(mine[frame], one[frame], atol=1e-5, rtol=1e-5)
    assert (mine[0] - one[0]).abs().max() > 1e-3


@pytest.mark.parametrize("timeline", [TIMELINE, THREE_AXES])
def test_a_key_a_latent_later_is_heard_as_a_query_a_latent_earlier(timeline: AudioTimeline):
    """Rotations know differences alone: by how much both are moved together does not matter."""
    made, audio, tokens = layer(), audio_tokens(), video_tokens()
    windows = timeline.windows(audio, 4, DIM // HEADS, FPS, TEMPORAL_FACTOR, AXES)

    def moved(latents: float, by_row: float, queries: bool) -> Tensor:
        places = torch.zeros(70, 3, dtype=torch.float64)
        places[:, 0] = position(audio.centers_s().double()) + latents
        places[:, 1] = by_row
        dims, theta = ([16], 10000.0) if timeline.rope == "time" else (AXES.dims, AXES.theta)
        keys = rotary_table(places[:, : len(dims)], dims, theta)
        layout = the_layout()
        positions = layout.positions + torch.tensor([latents, by_row, 0.0], dtype=torch.float64) * queries
        query_rope = windows.query_rope
        if isinstance(query_rope, Tensor) and queries:
            centres = position(latent_spans_s(4, FPS, TEMPORAL_FACTOR).mean(dim=1))
            query_rope = rotary_table(centres[:, None] + latents, dims, theta)
        there = replace(windows, key_rope=keys, query_rope=query_rope)
        return change(made, tokens, replace(layout, positions=positions), keys_values(made, audio.tokens, there), there)

    here = moved(0.0, 0.0, queries=False)
    torch.testing.assert_close(moved(2.5, 1.0, queries=True), here, atol=2e-5, rtol=1e-4)
    assert (moved(1.0, 0.0, queries=False) - here).abs().max() > 1e-3
    by_row = (moved(0.0, 1.0, queries=False) - here).abs().max()
    assert by_row > 1e-3 if timeline.rope == "backbone" else by_row == 0
