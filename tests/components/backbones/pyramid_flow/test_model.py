"""What both transformers promise: causality, independent columns and rows, exact trimming of padded text."""

from dataclasses import replace

import pytest
import torch

from components.backbones import attention_kernel
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.memory import ColumnMemory
from components.backbones.pyramid_flow.model import PyramidFlowTransformer, patch_grid
from components.backbones.pyramid_flow.state import ColumnState
from components.contracts import TextFeatures
from tests.tiny_syncphony import (
    NUM_BLOCKS,
    VARIANTS,
    BlockOutputs,
    latents,
    model_columns,
    text_features,
    tiny_backbone,
    training_columns,
)

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(params=VARIANTS)
def backbone(request: pytest.FixtureRequest) -> PyramidFlowTransformer:
    return tiny_backbone(request.param).requires_grad_(False)


def column(rows: int = 2) -> Column:
    """Stage 2 of latent frame 4: frames 0..1 at level 0, 2 at level 1, 3 at level 2, and the noisy one."""
    clips = training_columns(latents(4 * rows), units=(5, 5, 5))[3].clips
    assert [clip.shape[2:] for clip in clips] == [(2, 2, 4), (1, 4, 8), (1, 8, 16), (1, 8, 16)]
    return Column(clips, torch.linspace(300, 50, rows), text_features(rows))


def states(backbone: PyramidFlowTransformer, at: Column) -> list[torch.Tensor]:
    """Tokens after every block."""
    with BlockOutputs(backbone) as recorded:
        backbone([at])
    return [state[0].tokens for state in recorded]


def test_blocks_are_in_running_order(backbone: PyramidFlowTransformer):
    assert len(backbone.blocks) in NUM_BLOCKS.values()
    assert len(states(backbone, column())) == len(backbone.blocks)


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_later_clip_never_changes_an_earlier_token(backbone: PyramidFlowTransformer, changed: int):
    """Bit for bit, in every block: text and all clips before the changed one."""
    here = column()
    clips = list(here.clips)
    clips[changed] = clips[changed] + torch.randn_like(clips[changed])
    tokens = [here.text.tokens.shape[1], 2 * 2, 2 * 4, 4 * 8, 4 * 8]  # text, then the clips' patches
    first = sum(tokens[: changed + 1])
    for before, after in zip(states(backbone, here), states(backbone, replace(here, clips=clips)), strict=True):
        if changed > 0:
            assert torch.equal(before[:, :first], after[:, :first])
        assert not torch.isclose(before[:, first:], after[:, first:]).all(dim=-1).any()


def test_frames_of_one_clip_are_causal_too(backbone: PyramidFlowTransformer):
    here = column()
    clips = [clip.clone() for clip in here.clips]
    clips[0][:, :, 1] += 1.0
    upto = here.text.tokens.shape[1] + 2  # text and frame 0 (two patches)
    for before, after in zip(states(backbone, here), states(backbone, replace(here, clips=clips)), strict=True):
        assert torch.equal(before[:, :upto], after[:, :upto])
        assert not torch.equal(before[:, upto : upto + 2], after[:, upto : upto + 2])


def test_text_changes_every_token(backbone: PyramidFlowTransformer):
    here = column()
    text = replace(here.text, tokens=here.text.tokens + 1.0)
    changed = states(backbone, replace(here, text=text))[-1]
    assert not torch.isclose(states(backbone, here)[-1], changed).all(dim=-1).any()


def test_columns_and_rows_do_not_see_each_other(backbone: PyramidFlowTransformer):
    columns = model_columns(training_columns(latents(8)), text_features(8))
    packed = backbone(columns)
    for place, (at, out) in enumerate(zip(columns, packed, strict=True)):
        # products of another size may round otherwise; of the same size nothing of the others comes through
        torch.testing.assert_close(backbone([at])[0], out, atol=2e-6, rtol=1e-5)
        others = [c if i == place else replace(c, clips=[clip + 1 for clip in c.clips]) for i, c in enumerate(columns)]
        assert torch.equal(backbone(others)[place], out)
        assert out.shape == at.clips[-1].shape
        for row in range(at.num_rows):
            one = slice(row, row + 1)
            assert at.text.pooled is not None
            text = TextFeatures(at.text.tokens[one], at.text.mask[one], at.text.pooled[one])
            alone = backbone([Column([clip[one] for clip in at.clips], at.timesteps[one], text)])[0]
            torch.testing.assert_close(alone, out[one], **CLOSE)


def test_padded_text_changes_nothing(backbone: PyramidFlowTransformer):
    here = column()
    text = here.text
    more = TextFeatures(
        torch.cat([text.tokens, torch.full((2, 4, text.tokens.shape[2]), 50.0)], dim=1),
        torch.nn.functional.pad(text.mask, (0, 4)),
        text.pooled,
    )
    other = replace(more, tokens=torch.where(more.mask[..., None], more.tokens, torch.tensor(-3.0)))
    out = backbone([replace(here, text=more)])[0]
    assert torch.equal(backbone([replace(here, text=other)])[0], out)
    torch.testing.assert_close(backbone([here])[0], out, **CLOSE)


def embedded(backbone: PyramidFlowTransformer) -> list[ColumnState]:
    columns = model_columns(training_columns(latents(8)), text_features(8))
    return [backbone.embed(column) for column in columns]


@pytest.mark.parametrize("place", [0, -1])
def test_a_block_for_the_current_clip_alone_gives_what_the_whole_block_gives_it(backbone, place: int):
    """Joint and single block; velocities and all gradients, those of text weights that nothing reads being zero."""
    block = backbone.requires_grad_().blocks[place]
    block.last = place == -1 and len(backbone.blocks) == NUM_BLOCKS["mmdit"]
    found = []
    for current_only in (False, True):
        states = embedded(backbone)
        after = block(states, current_only=current_only)
        backbone.zero_grad(set_to_none=True)
        sum(backbone.read_out(state).square().mean() for state in after).backward()
        found.append((after, {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}))
    (whole, gradients), (current, mine) = found
    for before, a, b in zip(states, whole, current, strict=True):
        n = a.layout.num_current
        torch.testing.assert_close(b.tokens[:, -n:], a.tokens[:, -n:], **CLOSE)
        assert torch.equal(b.tokens[:, :-n], before.tokens[:, :-n])
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_the_last_block_alone_is_run_for_the_current_clip_alone(backbone: PyramidFlowTransformer):
    with BlockOutputs(backbone) as recorded:
        backbone([column()])
    (before,), (after,) = recorded[-2:]
    n = after.layout.num_current
    assert torch.equal(after.tokens[:, :-n], before.tokens[:, :-n])
    assert not torch.isclose(after.tokens[:, -n:], before.tokens[:, -n:]).all(dim=-1).any()
    (early,) = recorded[0]
    assert not torch.isclose(early.tokens, before.tokens).all(dim=-1).any()


def test_no_matrix_of_masks_reaches_the_attention(backbone: PyramidFlowTransformer, monkeypatch: pytest.MonkeyPatch):
    kernel, masks, keys = torch.nn.functional.scaled_dot_product_attention, [], []

    def recorded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        masks.append(attn_mask)
        keys.append(k.shape[2])
        return kernel(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(attention_kernel, "FEW_QUERIES", 0)
    here = column()
    backbone([replace(here, text=text_features(2, padded=False))])
    assert all(mask is None for mask in masks)
    assert keys[:5] == [5, 7, 15, 47, 79]  # text and frame 0, then one frame after the other
    masks.clear()
    backbone([here])  # one prompt has padding: a mask of keys, the same for all queries
    assert all(mask is not None and mask.shape[1:3] == (1, 1) for mask in masks)


def test_what_a_memory_holds_is_not_computed_again(backbone: PyramidFlowTransformer):
    """Frames 0 and 1, at the lowest resolution; then one frame more is denoised."""
    memory = ColumnMemory(capacity=2)
    first = column()
    memory.next_frames = 1
    backbone([replace(first, memory=memory)])
    memory.advance()
    assert (memory.frames, memory.tokens) == (1, 3 + 2)
    noisy = replace(first, clips=[*first.clips[:-1], torch.randn_like(first.clips[-1])])
    memory.next_frames = 2
    with BlockOutputs(backbone) as recorded:
        out = backbone([replace(noisy, memory=memory)])[0]
    memory.advance()
    assert {state.tokens.shape[1] for of_block in recorded for state in of_block} == {2 + 8 + 32 + 32}
    torch.testing.assert_close(out, backbone([noisy])[0], **CLOSE)
    torch.testing.assert_close(backbone([replace(first, memory=memory)])[0], backbone([first])[0], **CLOSE)
    memory.next_frames = 3
    with pytest.raises(ValueError, match="3 latent frames exceed the 2"):
        backbone([replace(first, memory=memory)])


def test_bad_inputs_are_named(backbone: PyramidFlowTransformer):
    with pytest.raises(ValueError, match="7x16"):
        patch_grid(torch.zeros(1, 4, 1, 7, 16), 2)
    here = column()
    with pytest.raises(ValueError, match="pooled"):
        backbone([replace(here, text=TextFeatures(here.text.tokens, here.text.mask))])
