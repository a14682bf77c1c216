"""Rotary positions: known rotations, norms, and that only differences of positions matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.backbones.rope import rotary_angles, rotary_table, rotate
from tests.tiny_syncphony import generator


def heads(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def test_pairs_of_channels_turn_like_complex_numbers():
    positions, theta, d = torch.tensor([0.0, 1.0, 2.5, 40.0]), 100.0, 8
    x = heads(4, d)
    turned = torch.view_as_complex(rotate(x, rotary_table(positions[:, None], [d], theta)).reshape(4, 4, 2))
    frequency = torch.tensor([theta ** (-2 * i / d) for i in range(4)])
    expected = torch.view_as_complex(x.reshape(4, 4, 2)) * torch.exp(1j * positions[:, None] * frequency)
    torch.testing.assert_close(turned, expected.to(turned.dtype), atol=1e-5, rtol=1e-5)


def test_position_zero_changes_nothing():
    x = heads(2, 3, 5, 12)
    assert torch.equal(rotate(x, rotary_table(torch.zeros(5, 3), (4, 4, 4))), x)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_turns_its_own_channels_only(axis: int):
    dims = (4, 6, 8)
    positions = torch.zeros(5, 3)
    positions[:, axis] = torch.arange(5) + 1.0
    x = heads(5, 18)
    change = rotate(x, rotary_table(positions, dims)) - x
    first = sum(dims[:axis])
    mine = torch.zeros(18, dtype=torch.bool)
    mine[first : first + dims[axis]] = True
    assert torch.equal(change[:, ~mine], torch.zeros(5, int((~mine).sum())))
    assert (change[:, mine].abs().amax(dim=1) > 1e-3).all()


@settings(max_examples=30, deadline=None)
@given(q=st.floats(-50, 50), k=st.floats(-50, 50), shift=st.floats(-500, 500))
def test_products_depend_on_the_distance_only(q: float, k: float, shift: float):
    x, y = heads(1, 16, seed=1), heads(1, 16, seed=2)

    def product(a: float, b: float) -> float:
        at = [torch.tensor([[p]], dtype=torch.float64) for p in (a, b)]
        return float((rotate(x, rotary_table(at[0], [16])) * rotate(y, rotary_table(at[1], [16]))).sum())

    assert product(q, k) == pytest.approx(product(q + shift, k + shift), abs=2e-5)


def test_rotation_keeps_lengths_and_gives_float32():
    x = heads(3, 7, 16)
    turned = rotate(x.bfloat16(), rotary_table(torch.arange(7)[:, None] * 3.7, [16]))
    assert turned.dtype == torch.float32
    torch.testing.assert_close(turned.norm(dim=-1), x.bfloat16().float().norm(dim=-1), atol=1e-5, rtol=1e-5)


def test_angles_keep_float64_at_large_positions():
    """Float32 angles near 10^6 would be wrong by 0.03 rad."""
    table = rotary_table(torch.tensor([[1e6 + 0.25]], dtype=torch.float64), [4], theta=1.0)
    exact = torch.tensor(1e6 + 0.25, dtype=torch.float64)
    torch.testing.assert_close(table[:, 0, 0], torch.stack([exact.cos(), exact.sin()]).float(), atol=1e-7, rtol=0)
    assert rotary_angles(torch.tensor([2.0]), 6).dtype == torch.float64
