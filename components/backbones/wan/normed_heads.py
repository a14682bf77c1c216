"""Normalised and rotated queries and keys of Wan's attention.

PyTorch has no fused root-mean-square norm for CPUs: automatic differentiation takes a dozen passes over the tokens
where four do, and a rotation written into every second channel clears its gradients first. So on a CPU in float32, norm
and rotation are one step whose gradient is written out (the numbers of diffusers' processor within rounding;
`benchmarks/modulation.py` times it). Elsewhere they are PyTorch's fused norm and a rotation in real numbers that a
compiler can fuse.

Legend: B rows, L tokens (T steps of S), W = H d width, H heads, d channels per head.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from components.backbones.context_parallel import TokenSplit
from components.backbones.rms_norm import rms_norm
from components.backbones.rope import rotated_pairs
from components.codecs.no_autocast import no_autocast


class RotaryTable:
    """Cosines and sines ``[1, L, 1, d]``, float32, each number twice as diffusers wants them.

    A plain class, so that sharding does not cast them to bfloat16 as it does with tensors in tuples and dataclasses.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos = cos
        self.sin = sin
        self._pairs: dict[int, Tensor] = {}

    def share(self, split: TokenSplit) -> RotaryTable:
        """The table of this process's tokens, where they are shared."""
        return RotaryTable(split.share(self.cos), split.share(self.sin))

    def pairs(self, heads: int) -> Tensor:
        """The same for H heads as complex numbers ``[L, 1, H, d / 2]``, as `normed_heads` wants them on a CPU."""
        if heads not in self._pairs:
            with torch.inference_mode(False):  # it is kept, and may enter training later
                pairs = torch.complex(self.cos[0, :, :, 0::2], self.sin[0, :, :, 1::2])  # [L, 1, d / 2]
                # repeated over heads, so that products run over long rows
                self._pairs[heads] = pairs.unsqueeze(1).expand(-1, -1, heads, -1).contiguous()
        return self._pairs[heads]


def computes_in_float32(x: Tensor, norm: nn.Module) -> bool:
    """Whether `normed_heads` takes the step with the written-out gradient, whose result is float32."""
    weight = cast(Tensor, norm.weight)
    wide = x.dtype == torch.float32 or torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and wide and weight.dtype == torch.float32


def normed_heads(norm: nn.Module, x: Tensor, heads: int, rope: RotaryTable | Tensor | None = None) -> Tensor:
    """Tokens ``[B, L, W]`` normalised over their whole width, then cut into heads ``[B, L, H, d]`` and rotated.

    Args:
        norm: `torch.nn.RMSNorm` over W.
        x: projected tokens.
        heads: H.
        rope: rotation of every token, or complex pairs ``[T, 1 or S, H, d / 2]`` (on a CPU); None rotates nothing.
    """
    wide = computes_in_float32(x, norm)
    if wide and not torch.compiler.is_compiling():
        pairs = rope.pairs(heads) if isinstance(rope, RotaryTable) else rope
        weight, eps = cast(Tensor, norm.weight), cast(float, norm.eps)
        out: Tensor = _NormedHeads.apply(x.float(), weight, eps, heads, pairs)  # type: ignore[no-untyped-call]
        return out
    x = x.float() if wide else x  # a compiler fuses the plain operations, and has no complex numbers
    x = torch.unflatten(rms_norm(norm, x).to(x.dtype), -1, (heads, -1))
    if rope is None:
        return x
    assert isinstance(rope, RotaryTable)
    return rotated(x, rope)


def rotary_pairs(table: Tensor, heads: int, head_dim: int) -> Tensor:
    """Complex pairs ``[T, 1 or S, H, d / 2]`` of a table ``[2, T, 1 or S, n]`` that rotates the first 2 n channels."""
    rest = head_dim // 2 - table.shape[-1]
    # one: the other channels pass, in the same product
    pairs = F.pad(torch.complex(table[0], table[1]), (0, rest), value=1.0)
    return pairs.unsqueeze(2).expand(-1, -1, heads, -1).contiguous()


def rotated_in_pairs(x: Tensor, pairs: Tensor) -> Tensor:
    """Heads ``[B, L, H, d]`` (float32) rotated by complex pairs ``[T, 1 or S, H, d / 2]``."""
    out: Tensor = _Rotated.apply(x, pairs)  # type: ignore[no-untyped-call]
    return out


def rotated(x: Tensor, rope: RotaryTable) -> Tensor:
    """Heads ``[B, L, H, d]`` rotated in pairs of neighbouring channels, in ``x``'s dtype."""
    # float32 products, as the tables are; unbind and stack have gradients without zeros to fill
    even, odd = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
    cos, sin = rope.cos[..., 0::2], rope.sin[..., 1::2]
    turned: Tensor = torch.stack(rotated_pairs(even, odd, cos, sin), dim=-1).flatten(-2)
    return turned.type_as(x)


class _NormedHeads(torch.autograd.Function):
    """``rotate(x / rms(x) * weight)`` in float32; the rotation is a complex product in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, heads: int, pairs: Tensor | None) -> Tensor:
        x = x.contiguous()
        inverse = x.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()  # [B, L, 1]
        out: Tensor = (x * inverse).mul_(weight).unflatten(-1, (heads, -1))
        if pairs is not None:
            _as_pairs(out, len(pairs)).mul_(pairs)
        ctx.save_for_backward(x, weight, inverse)
        ctx.pairs = pairs
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        if ctx.pairs is not None:
            grad = _turned(grad, ctx.pairs.conj())
        rows, grads, inverse = x.flatten(0, 1), grad.flatten(2).flatten(0, 1), inverse.flatten(0, 1)  # [B L, W or 1]
        of_x = of_weight = None
        # y = w x r with r = rms(x)^-1: both gradients need the products g x, which are made once
        products = grads * rows
        with no_autocast(x.device):
            if ctx.needs_input_grad[1]:
                of_weight = torch.mv(products.t(), inverse[:, 0])
            if ctx.needs_input_grad[0]:
                # dx = g w r - x r^3 / W sum(g w x)
                pull = torch.mv(products, weight)[:, None] * inverse.pow(3).div_(-x.shape[-1])
                of_x = torch.mul(grads, weight, out=products).mul_(inverse).addcmul_(rows, pull).view_as(x)
        return of_x, of_weight, None, None, None


class _Rotated(torch.autograd.Function):
    """A complex product; its gradient is the product with the conjugate, and nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Tensor) -> Tensor:
        ctx.pairs = pairs
        return _turned(x, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _turned(grad, ctx.pairs.conj()), None


def _turned(heads: Tensor, pairs: Tensor) -> Tensor:
    """Heads ``[B, L, H, d]`` times pairs, laid out ``[B, L, H, d]`` in memory whatever they were."""
    out = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    given = heads if heads.stride(-1) == 1 else heads.contiguous()
    torch.mul(_as_pairs(given, len(pairs)), pairs, out=_as_pairs(out, len(pairs)))
    return out


def _as_pairs(heads: Tensor, num_steps: int) -> Tensor:
    """Heads ``[B, L, H, d]`` as complex numbers ``[B, T, S, H, d / 2]`` in the same memory."""
    return torch.view_as_complex(torch.unflatten(torch.unflatten(heads, -1, (-1, 2)), 1, (num_steps, -1)))
