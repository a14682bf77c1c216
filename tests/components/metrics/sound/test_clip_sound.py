"""The sounds of a clip at another rate, their level, and pieces of them."""

from dataclasses import replace

import pytest
import torch

from components.errors import InputError
from components.metrics.sound.clip_sound import generated_sound, is_mute, level_dbfs, pieces, real_sound
from tests.components.metrics.generations import noise, sounding, tone


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_tone_keeps_its_frequency_and_place_at_another_rate(rate: int):
    generation = sounding(tone(440, 1.0, 24000)[None], 24000)
    sound = generated_sound(generation, 0, rate)
    middle = slice(rate // 10, -rate // 10)
    assert len(sound) == rate
    torch.testing.assert_close(sound[middle], tone(440, 1.0, rate)[middle], atol=2e-3, rtol=0)


def test_real_and_generated_sounds_are_told_apart():
    generated, real = noise(0.5, 16000, 1)[None], noise(0.5, 16000, 2)[None]
    generation = sounding(generated, 16000, real)
    assert torch.equal(generated_sound(generation, 0, 16000), generated[0])
    assert torch.equal(real_sound(generation, 0, 16000), real[0])


def test_prepared_clips_have_no_real_sound():
    with pytest.raises(InputError, match="clip 'clip0' comes without its real sound"):
        real_sound(sounding(noise(0.5, 16000)[None], 16000, torch.zeros(1, 0)), 0, 16000)


def test_mute():
    generation = sounding(torch.zeros(2, 100), 16000)
    assert not is_mute(generation, 0)
    muted = replace(generation, reference=replace(generation.reference, mute=torch.tensor([False, True])))
    assert [is_mute(muted, row) for row in range(2)] == [False, True]


def test_levels():
    assert level_dbfs(torch.ones(10)) == 0
    assert level_dbfs(torch.full((10,), -0.1)) == pytest.approx(-20)
    assert level_dbfs(tone(100, 1.0, 16000, 1.0)) == pytest.approx(-3.01, abs=0.01)
    assert level_dbfs(torch.zeros(10)) == level_dbfs(torch.zeros(0)) == -float("inf")


@pytest.mark.parametrize(("samples", "lengths"), [(10, [10]), (11, [6, 5]), (20, [10, 10]), (21, [7, 7, 7])])
def test_pieces_are_few_and_equal(samples: int, lengths: list[int]):
    found = pieces(torch.arange(samples), 10)
    assert [len(piece) for piece in found] == lengths and torch.equal(torch.cat(found), torch.arange(samples))
