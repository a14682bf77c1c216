"""How text guidance and audio sync guidance add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.guidance.guidance import AudioSyncGuidance, Branches, TextGuidance, guided_velocity

SCALES = st.floats(-3, 9)


def branches() -> Branches:
    return Branches(*torch.randn(3, 2, 4, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double())


@given(g=SCALES, w=SCALES)
def test_the_composition(g: float, w: float):
    """v_neg + g (v_pos - v_neg) + w (v_pos - v_off)."""
    b = branches()
    assert b.negative is not None and b.off_sync is not None
    expected = b.negative + g * (b.positive - b.negative) + w * (b.positive - b.off_sync)
    torch.testing.assert_close(guided_velocity(b, TextGuidance(g), AudioSyncGuidance(w)), expected)


def test_hand_computed_numbers():
    b = Branches(positive=torch.tensor([3.0]), negative=torch.tensor([1.0]), off_sync=torch.tensor([2.5]))
    assert guided_velocity(b, TextGuidance(4.0), AudioSyncGuidance(2.0)).item() == 1 + 4 * 2 + 2 * 0.5


def test_guidance_that_is_off_needs_no_branch_and_changes_nothing():
    alone = Branches(branches().positive)
    text, sync = TextGuidance(1.0), AudioSyncGuidance(0.0)
    assert not text.enabled and not sync.enabled
    assert guided_velocity(alone, text, sync) is alone.positive
    assert TextGuidance().scale == 1.0 and AudioSyncGuidance().scale == 2.0


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.5, 7.0])
def test_every_other_text_scale_is_on(scale: float):
    b = branches()
    assert TextGuidance(scale).enabled
    if scale == 0.0:
        assert b.negative is not None
        torch.testing.assert_close(guided_velocity(b, TextGuidance(0.0), AudioSyncGuidance(0.0)), b.negative)


def test_a_missing_branch_is_named():
    alone = Branches(branches().positive)
    with pytest.raises(ValueError, match="negative branch"):
        guided_velocity(alone, TextGuidance(4.0), AudioSyncGuidance(0.0))
    with pytest.raises(ValueError, match="off-sync branch"):
        guided_velocity(alone, TextGuidance(1.0), AudioSyncGuidance(2.0))
