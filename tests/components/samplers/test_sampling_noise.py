"""Noise per clip: the same clip draws the same numbers in any company."""

import pytest
import torch

from components.samplers.sampling_noise import ClipNoise
from components.schedules.pyramid_schedule import block_noise
from tests.tiny_syncphony import generator


def test_a_clips_noise_does_not_depend_on_its_batch():
    together = ClipNoise([generator(seed) for seed in (5, 6, 7)])
    reversed_ = ClipNoise([generator(seed) for seed in (7, 6, 5)])
    alone = ClipNoise([generator(6)])
    for draw in (
        lambda noise, n: noise.initial((n, 4, 2, 8, 8)),
        lambda noise, n: noise.block(0, 1, (n, 4, 1, 4, 4), 1 / 3),
        lambda noise, n: noise.block(0, 2, (n, 4, 1, 8, 8), 1 / 3),
    ):
        three, back, one = draw(together, 3), draw(reversed_, 3), draw(alone, 1)
        assert torch.equal(three, back.flip(0)) and torch.equal(three[1:2], one)
        assert not torch.equal(three[0], three[1])


def test_block_noise_is_made_of_the_generators_white_noise():
    white = ClipNoise([generator(1)]).initial((1, 4, 1, 8, 8))
    assert torch.equal(ClipNoise([generator(1)]).block(3, 2, (1, 4, 1, 8, 8), 0.2), block_noise(white, 0.2))


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    ClipNoise([generator(0)]).initial((1, 2, 2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_one_generator_per_clip():
    with pytest.raises(ValueError, match="2 generators for 3 clips"):
        ClipNoise([generator(0), generator(1)]).initial((3, 4))
