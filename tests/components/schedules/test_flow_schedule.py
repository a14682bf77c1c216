"""Flow schedules: bent noise levels, exact solutions, and mistakes in the settings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import InputError
from components.schedules.flow_schedule import FlowSchedule


@given(st.integers(2, 60), st.sampled_from([1.0, 2.0, 5.0]))
@settings(deadline=None, max_examples=20)
def test_levels_fall_from_noise_to_data(steps: int, shift: float):
    for solver in ("unipc", "euler"):
        trajectory = FlowSchedule(solver, shift).start(steps)
        assert trajectory.timesteps.shape == (steps,)
        assert trajectory.sigmas.shape == (steps + 1,)
        assert (trajectory.sigmas.diff() < 0).all()
        assert trajectory.sigmas[0] > 0.99
        assert trajectory.sigmas[-1] == 0
        gap = 1000 * trajectory.sigmas[:-1] - trajectory.timesteps  # UniPC cuts timesteps to whole numbers
        assert (gap > -0.01).all() and (gap < 1.01).all()


@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 7, 150])
def test_the_true_velocity_leads_to_the_data(solver: str, steps: int):
    """A straight path has a constant velocity; every solver follows it exactly, also where timesteps repeat."""
    data, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    trajectory = FlowSchedule(solver, 5.0).start(steps)
    sigma = trajectory.sigmas[0]
    x = sigma * noise + (1 - sigma) * data
    for i in range(steps):
        x = trajectory.step(i, noise - data, x)
    torch.testing.assert_close(x, data, atol=1e-4, rtol=1e-4)


def test_two_walks_share_nothing():
    schedule, x = FlowSchedule("unipc", 3.0), torch.ones(2, 3)
    one, other = schedule.start(4), schedule.start(4)
    for i in range(4):
        x = one.step(i, torch.sin(x + i), x)
    y = torch.ones(2, 3)
    for i in range(4):
        y = other.step(i, torch.sin(y + i), y)
    assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_steps_are_taken_in_float32(dtype: torch.dtype):
    x = FlowSchedule().start(2).step(0, torch.ones(1, 3, dtype=dtype), torch.ones(1, 3, dtype=dtype))
    assert x.dtype == torch.float32


@pytest.mark.parametrize(("settings_", "message"), [({"solver": "heun"}, "heun"), ({"shift": 0.0}, "0.0")])
def test_mistakes_are_named(settings_: dict, message: str):
    with pytest.raises(InputError, match=message):
        FlowSchedule(**settings_)
