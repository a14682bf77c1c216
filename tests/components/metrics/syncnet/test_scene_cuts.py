import colorsys

import pytest
import torch

from components.errors import InputError
from components.metrics.syncnet.scene_cuts import SceneCuts, hue_saturation_value


def shots_of(frames, **settings):
    return [(shot.start, shot.stop) for shot in SceneCuts(**settings).shots(frames)]


def coloured(*colours):
    """One frame of each colour, ``[T, 3, 24, 40]``."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 24, 40)


RED, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.5, 0.5, 0.5)


def test_cuts_are_found_and_shots_cover_the_clip():
    clip = coloured(*[RED] * 20, *[BLUE] * 30, *[GREY] * 16)
    assert shots_of(clip) == [(0, 20), (20, 50), (50, 66)]
    assert shots_of(clip[:20]) == [(0, 20)]
    assert shots_of(clip[:1]) == [(0, 1)]


def test_a_flash_begins_no_second_shot():
    """After a cut no other is looked for in 15 frames; before the first there is no such limit."""
    clip = coloured(*[RED] * 5, *[BLUE] * 14, *[RED] * 20)
    assert shots_of(clip) == [(0, 5), (5, 39)]
    assert shots_of(clip, min_frames=14) == [(0, 5), (5, 19), (19, 39)]


def test_movement_noise_and_fades_are_no_cuts():
    draw = torch.Generator().manual_seed(0)
    noisy = (coloured(*[BLUE] * 30) + 0.05 * torch.randn(30, 3, 24, 40, generator=draw)).clamp(0, 1)
    fade = torch.linspace(0, 1, 30)[:, None, None, None].expand(-1, 3, 24, 40)
    ball = torch.zeros(30, 3, 60, 80)
    for frame in range(30):
        ball[frame, :, 20:36, 2 * frame : 2 * frame + 16] = 1
    for clip in (noisy, fade, ball):
        assert shots_of(clip) == [(0, 30)]


def test_the_change_of_one_colour_to_another_by_hand():
    # 8 bits: red (230, 26, 26), blue (26, 26, 230): hue 0 and 120 (half degrees), the rest alike
    assert SceneCuts().changes(coloured(RED, BLUE)).tolist() == [pytest.approx(120 / 3)]
    assert shots_of(coloured(RED, BLUE), threshold=40) == [(0, 1), (1, 2)]
    assert shots_of(coloured(RED, BLUE), threshold=40.1) == [(0, 2)]


def test_wide_pictures_are_thinned():
    clip = torch.zeros(2, 3, 480, 832)
    clip[1] = 1
    clip[1, :, ::3, ::3] = 0
    assert SceneCuts().changes(clip).tolist() == [0]


def test_colours_are_those_of_the_colour_circle():
    draw = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (1, 3, 20, 20), generator=draw, dtype=torch.int32)
    found = hue_saturation_value(rgb)[0].flatten(1).T
    for (h, s, v), colour in zip(found.tolist(), rgb[0].flatten(1).T.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
        assert min(abs(h - 180 * hue), 180 - abs(h - 180 * hue)) <= 0.6
        assert (s, v) == (pytest.approx(255 * saturation, abs=0.6), pytest.approx(255 * value, abs=1e-6))


def test_bad_settings():
    with pytest.raises(InputError, match="threshold is 0"):
        SceneCuts(threshold=0)
    with pytest.raises(InputError, match="min_frames is 0"):
        SceneCuts(min_frames=0)
