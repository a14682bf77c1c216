"""Where a column's tokens stand, which of them may attend to which, and that the cached tables serve every mode."""

import pytest
import torch

from components.backbones.pyramid_flow.column import Column, attention_mask, causal_mask, layout_rope, token_layout
from components.backbones.rope import rotary_table
from tests.tiny_syncphony import latents, text_features, tiny_backbone

CPU = torch.device("cpu")
SHAPES = ((2, 1, 2), (1, 2, 4), (1, 4, 8))


def test_time_counts_frames_from_the_oldest_and_history_is_stretched_onto_the_current_grid():
    layout = token_layout(SHAPES, 3, CPU)
    assert layout.positions.shape == (3 + 4 + 8 + 32, 3)
    assert torch.equal(layout.positions[:3], torch.zeros(3, 3, dtype=torch.float64))
    oldest, middle, current = (layout.positions[place] for place, _, _ in layout.clip_slices())
    assert oldest.tolist() == [[0, 1.5, 1.5], [0, 1.5, 5.5], [1, 1.5, 1.5], [1, 1.5, 5.5]]
    assert middle[:, 0].unique().tolist() == [2]
    assert middle[:, 1].unique().tolist() == [0.5, 2.5]
    assert middle[:, 2].unique().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert torch.equal(
        current, torch.cartesian_prod(torch.tensor([3.0]), torch.arange(4.0), torch.arange(8.0)).double()
    )


def test_without_stretching_every_clip_counts_its_own_grid():
    layout = token_layout(SHAPES, 0, CPU, stretch_history=False)
    oldest = layout.positions[layout.clip_slices()[0][0]]
    assert oldest.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_slices_cover_the_tokens_behind_the_text():
    layout = token_layout(SHAPES, 3, CPU)
    assert [(s.start, s.stop, first, shape) for s, first, shape in layout.clip_slices()] == [
        (3, 7, 0, (2, 1, 2)),
        (7, 15, 2, (1, 2, 4)),
        (15, 47, 3, (1, 4, 8)),
    ]
    assert layout.num_current == 32


def test_a_token_sees_its_own_and_earlier_frames_text_only_the_first():
    layout = token_layout(SHAPES, 3, CPU)
    frame = torch.tensor([0] * 3 + [0] * 2 + [1] * 2 + [2] * 8 + [3] * 32)
    assert torch.equal(causal_mask(layout), frame[:, None] >= frame[None])


def mask_of(calls: list[tuple[int, int]], keys: int) -> torch.Tensor:
    return torch.cat([(torch.arange(keys) < end).expand(queries, -1) for queries, end in calls])


def test_calls_for_each_frame_keep_the_rule():
    layout = token_layout(SHAPES, 3, CPU)
    assert torch.equal(mask_of(layout.causal_calls(), 47), causal_mask(layout))
    assert torch.equal(mask_of(layout.causal_calls(current_only=True), 47), causal_mask(layout)[-32:])
    of_two = token_layout(((1, 2, 2), (2, 2, 2)), 3, CPU)
    assert torch.equal(mask_of(of_two.causal_calls(current_only=True), 15), causal_mask(of_two)[-8:])


def test_a_layout_may_begin_behind_what_is_known():
    whole, rest = token_layout(SHAPES, 3, CPU), token_layout(((1, 1, 2), *SHAPES[1:]), 0, CPU, first_frame=1)
    assert torch.equal(rest.positions, whole.positions[3 + 2 :])
    assert [first for _, first, _ in rest.clip_slices()] == [1, 2, 3]
    assert torch.equal(mask_of(rest.causal_calls(known=5), 47), causal_mask(whole)[5:])


def test_padding_sees_padding_only():
    layout = token_layout(SHAPES, 3, CPU)
    real = torch.tensor([[True, True, False], [True, True, True]])
    mask = attention_mask(layout, real, temporal_causal=True)
    assert mask is not None and mask.shape == (2, 1, 47, 47)
    assert not mask[0, 0, 2, [0, 1, 3, 46]].any() and not mask[0, 0, [0, 1, 3, 46], 2].any() and mask[0, 0, 2, 2]
    assert torch.equal(mask[1, 0], causal_mask(layout))
    assert attention_mask(layout, None, temporal_causal=False) is None
    everyone = attention_mask(layout, real, temporal_causal=False)
    assert everyone is not None and everyone[1].all()


def test_tables_are_those_of_the_positions():
    layout = token_layout(SHAPES, 3, CPU)
    assert torch.equal(layout_rope(layout, (4, 6, 6)), rotary_table(layout.positions, (4, 6, 6)))
    assert torch.equal(layout_rope(layout, (4, 6, 6), 10.0), rotary_table(layout.positions, (4, 6, 6), 10.0))
    assert token_layout(SHAPES, 3, CPU) is layout


@pytest.mark.parametrize("variant", ["miniflux", "mmdit"])
def test_training_works_after_the_same_shapes_ran_in_inference_mode(variant: str):
    """Tables made under `torch.inference_mode` (the Trainer validates in it) must not poison a later backward pass."""
    backbone = tiny_backbone(variant)
    clip = latents(1, 1, size=(6, 10))  # a shape no other test has cached
    column = Column([clip], torch.tensor([500.0]), text_features(1, words=7))
    with torch.inference_mode():
        expected = backbone([column])[0].clone()
    out = backbone([column])[0]
    assert torch.equal(out, expected)
    out.square().mean().backward()
    assert all(p.grad is not None for p in backbone.blocks[0].parameters())
