"""The written-out norm and rotation against diffusers' processor and against double precision."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from components.backbones.rope import rotary_table, rotate
from components.backbones.wan.attention import wan_attention
from components.backbones.wan.model import StreamInputs, run_block, video_rope
from components.backbones.wan.normed_heads import normed_heads, rotary_pairs, rotated, rotated_in_pairs
from tests.tiny_harmony import video_tower

HEADS, DIM, GRID = 2, 24, (4, 3, 5)
ROPE = video_rope(GRID, DIM, torch.device("cpu"))


def stock_heads(norm: nn.Module, x: Tensor, turned: bool) -> Tensor:
    """As diffusers' processor writes it."""
    x = norm(x).unflatten(-1, (HEADS, -1))
    if not turned:
        return x
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = ROPE.cos[..., 0::2].to(x.dtype), ROPE.sin[..., 1::2].to(x.dtype)
    out = torch.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


def norm_and_tokens() -> tuple[nn.RMSNorm, Tensor, Tensor]:
    torch.manual_seed(0)
    norm = nn.RMSNorm(HEADS * DIM, eps=1e-6)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    x = 2 * torch.randn(3, 60, HEADS * DIM)
    x[0, 0] = 0  # a token that is nothing
    return norm, x, torch.randn(3, 60, HEADS, DIM)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("transposed", [False, True], ids=["as it is", "gradient by heads"])
def test_values_and_gradients_are_those_of_the_stock_form(turned: bool, transposed: bool):
    norm, x, weight = norm_and_tokens()
    if transposed:  # attention gives its gradient head by head
        weight = weight.transpose(1, 2).contiguous().transpose(1, 2)
    found = []
    for form in ("ours", "stock", "double"):
        exact = form == "double"
        module = nn.RMSNorm(HEADS * DIM, eps=1e-6, dtype=torch.float64 if exact else torch.float32)
        module.load_state_dict(norm.state_dict())
        tokens = x.to(module.weight.dtype).clone().requires_grad_()
        if form == "ours":
            out = normed_heads(module, tokens, HEADS, ROPE if turned else None)
        else:
            out = stock_heads(module, tokens, turned)
        gradients = torch.autograd.grad((out * weight.to(out.dtype)).sum(), [tokens, module.weight])
        found.append([t.detach().double() for t in (out, *gradients)])
    ours, stock, double = found
    assert torch.equal(ours[0], stock[0])
    for mine, theirs, truth in zip(ours, stock, double, strict=True):
        torch.testing.assert_close(mine[1:], truth[1:], atol=2e-5, rtol=1e-5)
        # no worse than automatic differentiation; the empty token's gradient is of the order 1 / sqrt(eps). That of the
        # weight is a sum over all tokens, whose order, and so its last digits, is the processor's.
        last_digits = 4 * torch.finfo(torch.float32).eps * truth.abs().max() if truth.ndim == 1 else 1e-6
        assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max() + last_digits


def test_frozen_norms_and_given_tokens_get_no_gradient():
    norm, x, _ = norm_and_tokens()
    norm.requires_grad_(False)
    tokens = x.clone().requires_grad_()
    normed_heads(norm, tokens, HEADS, ROPE).sum().backward()  # the sum's gradient is one number, expanded
    assert norm.weight.grad is None and tokens.grad is not None
    norm.requires_grad_(True)
    normed_heads(norm, x, HEADS, ROPE).sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize("num_rotated", [8, 24])
@pytest.mark.parametrize("per_step", [1, 5])
def test_pairs_turn_the_first_channels_and_let_the_rest_pass(num_rotated: int, per_step: int):
    torch.manual_seed(0)
    places = torch.arange(4 * per_step, dtype=torch.float64)[:, None]
    table = rotary_table(places, [num_rotated]).unflatten(1, (4, per_step))  # [2, T, 1 or S, n]
    x = torch.randn(2, 20, 3, 24, requires_grad=True)  # [B, T S, H, d]
    steps = x.transpose(1, 2).unflatten(2, (4, 5))
    golden = torch.cat([rotate(steps[..., :num_rotated], table), steps[..., num_rotated:]], dim=-1)
    golden = golden.flatten(2, 3).transpose(1, 2)
    mine = rotated_in_pairs(x, rotary_pairs(table, 3, 24))
    torch.testing.assert_close(mine, golden, atol=1e-6, rtol=0)
    weight = torch.randn_like(mine)
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (mine, golden)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)


def test_the_real_rotation_is_the_complex_one():
    _, _, x = norm_and_tokens()
    torch.testing.assert_close(rotated(x, ROPE), rotated_in_pairs(x, ROPE.pairs(HEADS)), atol=1e-6, rtol=0)
    assert rotated(x.bfloat16(), ROPE).dtype == torch.bfloat16


def test_attention_under_autocast_is_computed_in_float32():
    """Nearer to float32 than diffusers' own, whose attention is in bfloat16, and without its warning."""
    torch.manual_seed(0)
    attention = video_tower().blocks[0].attn1
    x = torch.randn(2, 60, HEADS * DIM)
    with torch.no_grad():
        exact = attention(x, None, None, (ROPE.cos, ROPE.sin))
        assert torch.equal(wan_attention(attention, x, None, None, ROPE), exact)
        with torch.autocast("cpu", torch.bfloat16):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                mine = wan_attention(attention, x, None, None, ROPE)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stock = attention(x, None, None, (ROPE.cos, ROPE.sin))
    assert mine.dtype == stock.dtype == torch.bfloat16
    assert (mine - exact).norm() < (stock - exact).norm() < 0.02 * exact.norm()


def test_segments_of_their_own_lengths_are_modulation_repeated_for_every_token():
    torch.manual_seed(0)
    block = video_tower().blocks[0]
    hidden, context, modulation = torch.randn(2, 60, 48), torch.randn(2, 7, 48), torch.randn(2, 2, 6, 48)
    lengths = (13, 47)
    repeated = modulation.repeat_interleave(torch.tensor(lengths), dim=1)
    leaves = [t.requires_grad_() for t in (modulation, repeated.detach())]
    outs = []
    for leaf, segments in zip(leaves, (lengths, None), strict=True):
        outs.append(run_block(block, hidden, StreamInputs(context, leaf, leaf[:, 0, 0], ROPE, lengths=segments)))
    assert torch.equal(*outs)
    weight = torch.randn_like(outs[0])
    mine, theirs = (torch.autograd.grad((o * weight).sum(), x)[0] for o, x in zip(outs, leaves, strict=True))
    summed = torch.stack([part.sum(dim=1) for part in torch.split(theirs, lengths, dim=1)], dim=1)
    torch.testing.assert_close(mine, summed, atol=2e-5, rtol=1e-5)
