"""The attention kernel against the formula, in every precision it is called with."""

import math

import pytest
import torch

from components.backbones.attention_kernel import attention
from tests.tiny_syncphony import generator


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    g = generator(0)
    return [torch.randn(2, 3, n, 8, generator=g).to(dtype) for n in (5, 7, 7)]


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1) @ v.double()


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_attention(masked: bool):
    q, k, v = inputs()
    mask = torch.rand(2, 1, 5, 7, generator=generator(1)) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    torch.testing.assert_close(attention(q, k, v, mask), formula(q, k, v, mask).float(), atol=1e-5, rtol=1e-5)


def test_masked_keys_have_no_influence_at_all():
    q, k, v = inputs()
    mask = (torch.arange(7) < 4).expand(5, 7)
    out = attention(q, k, v, mask)
    k[:, :, 4:], v[:, :, 4:] = 100 * torch.randn(2, 3, 3, 8), -7.0
    assert torch.equal(attention(q, k, v, mask), out)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_inputs_are_attended_in_float32(autocast: bool):
    q, k, v = inputs(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = attention(q, k, v, None)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attention(q.float(), k.float(), v.float(), None).bfloat16())


def test_rotated_float32_queries_meet_bfloat16_values_with_gradients():
    q, k, v = inputs()
    q, k, v = q.requires_grad_(), k.requires_grad_(), v.bfloat16().requires_grad_()
    out = attention(q, k, v, None)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(x.grad is not None and x.grad.dtype == x.dtype and (x.grad != 0).any() for x in (q, k, v))
