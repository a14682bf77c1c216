"""The pyramid's noise levels, the block noise's law, and that a jump lands where the next stage was trained."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import InputError
from components.schedules.pyramid_schedule import (
    PyramidSchedule,
    block_noise,
    downsample_mean,
    downsample_noise,
    euler_step,
    jump_to_stage,
    latent_pyramid,
    upsample_nearest,
)
from tests.tiny_syncphony import generator

STAGES = st.integers(1, 4)
GAMMAS = st.floats(0.02, 1 / 3)


def test_public_levels():
    """The table of the reference specification, section 4."""
    schedule = PyramidSchedule()
    assert schedule.nominal_start == pytest.approx([1.0, 0.667, 0.334], abs=1e-6)
    assert schedule.end_sigma == pytest.approx([0.667, 0.334, 0.0], abs=1e-6)
    assert schedule.start_sigma == pytest.approx([1.0, 0.80024, 0.50075], abs=1e-5)
    assert [schedule.jump(s) for s in (1, 2)] == [
        pytest.approx((0.59988, 0.69303), abs=1e-5),
        pytest.approx((0.74963, 0.43366), abs=1e-5),
    ]
    edges = [low for low, _ in schedule.timestep_ratio] + [1.0]
    assert edges == pytest.approx([0, 0.25616, 0.61480, 1], abs=1e-5)
    assert [float(t[0]) for t in schedule.train_timesteps] == pytest.approx([1000, 744, 386], abs=1e-3)


@settings(deadline=None)
@given(stages=STAGES, gamma=GAMMAS, shift=st.floats(0.3, 4.0))
def test_levels_of_any_pyramid(stages: int, gamma: float, shift: float):
    schedule = PyramidSchedule(stages, gamma=gamma, shift=shift)
    assert schedule.start_sigma[0] == pytest.approx(1.0)
    assert schedule.end_sigma[-1] == 0.0
    for stage in range(stages):
        assert 0 <= schedule.end_sigma[stage] < schedule.start_sigma[stage] <= 1 + 1e-6
        low, high = schedule.timestep_ratio[stage]
        assert 0 <= low < high <= 1
        timesteps = schedule.train_timesteps[stage]
        assert (timesteps[1:] < timesteps[:-1]).all() and float(timesteps[-1]) > 0 and float(timesteps[0]) <= 1000.1
        if stage:
            assert schedule.nominal_start[stage] == schedule.end_sigma[stage - 1]
            assert low == schedule.timestep_ratio[stage - 1][1]
            assert float(timesteps[0]) <= float(schedule.train_timesteps[stage - 1][-1])


@settings(deadline=None)
@given(stages=st.integers(2, 4), gamma=GAMMAS)
def test_a_jump_lands_on_the_next_stages_start(stages: int, gamma: float):
    """The correlation that upsampling left cancels, the variance is S^2 and the signal 1 - S."""
    schedule = PyramidSchedule(stages, gamma=gamma)
    for stage in range(1, stages):
        alpha, beta = schedule.jump(stage)
        o, start = schedule.end_sigma[stage - 1], schedule.start_sigma[stage]
        assert (alpha * o) ** 2 == pytest.approx(gamma * beta**2)
        assert (alpha * o) ** 2 + beta**2 == pytest.approx(start**2)
        assert alpha * (1 - o) == pytest.approx(1 - start)
        assert start > o


@settings(deadline=None)
@given(stages=STAGES, steps=st.integers(1, 30))
def test_inference_walks_through_the_whole_stage(stages: int, steps: int):
    schedule = PyramidSchedule(stages)
    for stage in range(stages):
        timesteps, local = schedule.inference_points(stage, steps)
        assert len(timesteps) == steps and len(local) == steps + 1
        assert timesteps[0] == float(schedule.train_timesteps[stage][0])
        assert local[0] == 1.0 and local[-1] == 0.0
        assert all(a > b for a, b in itertools.pairwise(local))
        assert all(a > b for a, b in itertools.pairwise(timesteps))
        if steps > 1:
            assert timesteps[-1] == float(schedule.train_timesteps[stage][-1])
        x = torch.ones(1)
        for a, b in itertools.pairwise(local):
            x = euler_step(x, torch.full((1,), 3.0), a, b)
        assert float(x) == pytest.approx(1 - 3.0, abs=1e-5)  # start - (start - end)


@settings(deadline=None)
@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8), stage=st.integers(0, 2))
def test_training_points_pair_timestep_and_local_level(u: list[float], stage: int):
    schedule = PyramidSchedule()
    draws = torch.tensor(u, dtype=torch.float64)
    timesteps, local = schedule.train_point(stage, draws)
    assert timesteps.dtype == local.dtype == torch.float32
    index = (draws * 1000).long()
    torch.testing.assert_close(local, (1 - index / 1000).float(), atol=1e-6, rtol=0)
    top, low = (float(schedule.train_timesteps[stage][i]) for i in (0, -1))
    torch.testing.assert_close(timesteps, (top - (top - low) * index / 999).float(), atol=1e-3, rtol=0)


def test_the_largest_float32_below_one_is_a_valid_draw():
    timesteps, local = PyramidSchedule().train_point(2, torch.tensor([1 - 2**-24]))
    assert float(local) == pytest.approx(0.001) and float(timesteps) > 0


def field(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize("gamma", [1 / 3, 0.25, 0.1])
def test_block_noise_has_its_covariance(gamma: float):
    """Unit variance, -gamma inside a 2x2 block, nothing between blocks."""
    noise = block_noise(field(200, 40, 40), gamma)
    blocks = noise.reshape(200, 20, 2, 20, 2).permute(0, 1, 3, 2, 4).reshape(200, 400, 4).double()
    inside = blocks.reshape(-1, 4).T.cov()
    expected = torch.full((4, 4), -gamma, dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(inside, expected, atol=0.02, rtol=0)  # 80,000 blocks: 5 standard errors
    neighbours = torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=-1).reshape(-1, 8).T.cov()[:4, 4:]
    assert neighbours.abs().max() < 0.02


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_at_one_third_every_block_adds_up_to_nothing(rows: int, columns: int, seed: int):
    noise = block_noise(field(3, 2, 2 * rows, 2 * columns, seed=seed).double(), 1 / 3)
    assert noise.shape == (3, 2, 2 * rows, 2 * columns)
    assert downsample_mean(noise[None]).abs().max() < 1e-15


@pytest.mark.parametrize("gamma", [1 / 3, 0.2])
@pytest.mark.parametrize("stage", [1, 2])
def test_after_a_jump_the_law_is_that_of_the_training_start(stage: int, gamma: float):
    """Compare mean and 4x4 block covariance of jumped states with those of ``S * noise + (1 - S) * up(clean)``."""
    schedule = PyramidSchedule(gamma=gamma)
    clean = field(1, 1, 1, 4, 4, seed=1).expand(3000, 1, 1, 4, 4)
    end = schedule.end_sigma[stage - 1]
    x = end * field(3000, 1, 1, 4, 4, seed=2) + (1 - end) * clean
    jumped = jump_to_stage(x, block_noise(field(3000, 1, 1, 8, 8, seed=3), gamma), *schedule.jump(stage))
    start = schedule.start_sigma[stage]
    rest = jumped - (1 - start) * upsample_nearest(clean)
    assert rest.mean(dim=0).abs().max() < 5 * start / math.sqrt(3000)
    blocks = rest.reshape(3000, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4).T.double()
    torch.testing.assert_close(blocks.cov(), start**2 * torch.eye(4, dtype=torch.float64), atol=0.02, rtol=0)


def test_the_pyramid_holds_means_and_keeps_the_noises_variance():
    x = torch.arange(32.0).reshape(1, 1, 1, 4, 8)
    levels = latent_pyramid(x, 3)
    assert [level.shape[-2:] for level in levels] == [(1, 2), (2, 4), (4, 8)]
    assert levels[2] is x
    assert levels[1][0, 0, 0, 0].tolist() == [4.5, 6.5, 8.5, 10.5]
    assert levels[0][0, 0, 0].tolist() == [[x[..., :4].mean().item(), x[..., 4:].mean().item()]]
    noise = downsample_noise(field(20, 4, 5, 32, 32))
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(noise, 2 * downsample_mean(field(20, 4, 5, 32, 32)))
    assert upsample_nearest(torch.tensor([[[[[1.0, 2.0]]]]])).tolist() == [[[[[1, 1, 2, 2], [1, 1, 2, 2]]]]]
    assert torch.equal(downsample_mean(upsample_nearest(x)), x)


def test_euler_stays_in_float32():
    x = euler_step(torch.ones(1, dtype=torch.bfloat16), torch.full((1,), 0.01, dtype=torch.bfloat16), 1.0, 0.9)
    assert x.dtype == torch.float32
    assert float(x) == pytest.approx(1 - 0.1 * 0.01, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 0.34, 1.0])
def test_a_gamma_without_covariance_is_refused(gamma: float):
    with pytest.raises(InputError, match=str(gamma)):
        PyramidSchedule(gamma=gamma)


def test_stage_range_of_another_length_is_refused():
    with pytest.raises(InputError, match="give 4 numbers for 3 stages"):
        PyramidSchedule(stage_range=[0, 0.5, 1])
