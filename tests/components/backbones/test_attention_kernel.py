"""The attention kernel against the formula, in every precision it is called with."""

import math

import pytest
import torch

from components.backbones import attention_kernel
from components.backbones.attention_kernel import attention, prefix_attention, prefixes
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


# --- one call for each block of queries ----------------------------------------------------------------------------

CALLS = [(4, 4), (3, 7), (5, 12)]  # queries, and how many keys they see


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, calls: list[tuple[int, int]]) -> torch.Tensor:
    """The same under a matrix of masks; tokens before heads."""
    mask = torch.cat([(torch.arange(k.shape[1]) < end).expand(queries, -1) for queries, end in calls])
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return attention(q, k, v, mask).transpose(1, 2)


def tokens_first(queries: int, keys: int, seed: int = 0) -> list[torch.Tensor]:
    g = generator(seed)
    return [torch.randn(2, n, 3, 8, generator=g, dtype=torch.float64) for n in (queries, keys, keys)]


@pytest.fixture(params=[0, 8, 64])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block by itself, some together, all together."""
    monkeypatch.setattr(attention_kernel, "FEW_QUERIES", request.param)


@pytest.mark.parametrize("calls", [CALLS, CALLS[-1:], CALLS[1:]])
@pytest.mark.usefixtures("few")
def test_prefixes_of_keys_are_a_mask_that_is_not_computed(calls: list[tuple[int, int]]):
    q, k, v = (x.float() for x in tokens_first(sum(queries for queries, _ in calls), 12))
    torch.testing.assert_close(prefix_attention(q, k, v, calls), by_hand(q, k, v, calls), atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("few")
def test_prefixes_have_the_gradients_of_the_mask():
    given = [x.float().requires_grad_() for x in tokens_first(12, 12)]
    weight = torch.randn(2, 12, 3, 8, generator=generator(5))
    mine = torch.autograd.grad((prefix_attention(*given, CALLS) * weight).sum(), given)
    wanted = torch.autograd.grad((by_hand(*given, CALLS) * weight).sum(), given)
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.usefixtures("few")
def test_keys_that_nobody_sees():
    q, k, v = (x.float() for x in tokens_first(12, 12))
    seen = torch.ones(2, 12, dtype=torch.bool)
    seen[1, 1:3] = False
    out = prefix_attention(q, k, v, CALLS, seen)
    torch.testing.assert_close(out[:1], by_hand(q, k, v, CALLS)[:1], atol=1e-6, rtol=1e-6)
    keep = torch.tensor([0, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    shorter = by_hand(q[1:], k[1:, keep], v[1:, keep], [(queries, end - 2) for queries, end in CALLS])
    torch.testing.assert_close(out[1:], shorter, atol=1e-6, rtol=1e-6)


def test_prefixes_add_their_gradients_up_without_touching_those_they_were_given():
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: [part.sin() for part in prefixes(x, [2, 2, 5])], [x])
    views = prefixes(x, [2, 5])
    assert all(view.data_ptr() == x.data_ptr() for view in views)
    given = torch.ones(2, 5, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(views, [x], [torch.ones(2, 2, 3, dtype=torch.float64), given])
    assert torch.equal(gradient[:, :2], torch.full((2, 2, 3), 2.0, dtype=torch.float64)) and (given == 1).all()


def test_gradients_of_bfloat16_prefixes_are_added_in_float32():
    x = torch.zeros(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    ends = [1] * 9
    views = prefixes(x, ends)
    one, small = torch.ones(1, 1, 1, dtype=torch.bfloat16), torch.full((1, 1, 1), 2**-9, dtype=torch.bfloat16)
    (gradient,) = torch.autograd.grad(views, [x], [small] * 8 + [one])
    assert float(gradient) == 1 + 2**-6  # one by one every small one would be rounded away
