"""The law of noise levels: its formula, its share of uniform draws, and levels that never reach zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.objectives.noise_levels import LevelDraws, NoiseLevels
from tests.tiny_syncphony import generator

MANY = LevelDraws.draw(40_000, generator(0), "cpu")


@given(st.floats(0.5, 10), st.floats(-1, 1), st.floats(0.2, 2))
def test_the_median_is_the_bent_sigmoid_of_the_mean(shift: float, mean: float, deviation: float):
    law = NoiseLevels(shift, mean, deviation, uniform_share=0.0)
    levels = law(LevelDraws(torch.tensor([0.0, 1.0]), torch.ones(2), torch.ones(2)))
    for n, level in zip((0.0, 1.0), levels.tolist(), strict=True):
        u = 1 / (1 + torch.tensor(-(mean + deviation * n)).exp().item())
        assert level == pytest.approx(shift * u / (1 + (shift - 1) * u), rel=1e-4)


def test_levels_are_logit_normal_or_uniform():
    for share in (0.0, 0.3, 1.0):
        levels = NoiseLevels(1.0, uniform_share=share)(MANY)
        assert levels.min() > 0
        assert levels.max() <= 1
        uniform = MANY.choice < share
        assert torch.equal(levels[uniform], MANY.uniform[uniform])
        logits = torch.logit(levels[~uniform].double())
        if len(logits):
            assert logits.mean().abs() < 0.02
            assert logits.std() == pytest.approx(1.0, abs=0.02)
    assert NoiseLevels(1.0, uniform_share=1.0)(MANY).mean() == pytest.approx(0.5, abs=0.01)


def test_no_draw_gives_level_zero():
    edge = LevelDraws(torch.tensor([-9.0, 9.0]), torch.tensor([2.0**-24, 1.0]), torch.tensor([0.0, 0.0]))
    assert (NoiseLevels()(edge) > 0).all()
    assert (NoiseLevels(uniform_share=0.0)(edge) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"shift": 0}, "shift is 0"), ({"deviation": -1}, "deviation"), ({"uniform_share": 1.5}, "between 0 and 1")],
)
def test_mistakes_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        NoiseLevels(**settings)
