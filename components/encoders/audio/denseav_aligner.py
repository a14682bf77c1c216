"""DenseAV's aligners: small heads that carry backbone tokens into the space shared by sound and picture.

Every stage maps tokens ``[B, N, C]`` and an optional class vector ``[B, C]``. Stage numbers and parameter names are
those of the public checkpoints, so their keys load as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.errors import InputError

_EPS = 1e-4
_NUM_HEADS = 6
_POOL = 3

Pair = tuple[Tensor, Tensor | None]


class MeanOverFrequency(nn.Module):
    """The stage that spectrogram backbones need; HuBERT tokens have one frequency, so there is nothing to average."""

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """Both as they are."""
        return tokens, cls


class TokenNorm(nn.Module):
    """Layer norm over the channels of tokens and class vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, C]`` and ``[B, C]``, both normed."""
        return self.norm(tokens), None if cls is None else self.norm(cls)


class Projection(nn.Module):
    """Normed tokens through a 1x1 convolution; the class vector through a linear layer, un-normed."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = TokenNorm(in_dim)
        self.layer = _TokenConv(in_dim, out_dim, width=1)
        self.cls_layer = nn.Linear(in_dim, out_dim)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, in]`` to ``[B, N, out]``."""
        return self.layer(self.norm(tokens, None)[0]), None if cls is None else self.cls_layer(cls)


class NormedTimePool(nn.Module):
    """Norm, then one token out of three; the class vector is normed only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = TokenNorm(dim)
        self.layer = _TokenConv(dim, dim, width=_POOL)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, C]`` to ``[B, N // 3, C]``."""
        normed, cls = self.norm(tokens, cls)
        return self.layer(normed), cls


class TimePool(nn.Module):
    """One token out of three, without a norm of its own; optionally a linear layer for the class vector."""

    def __init__(self, in_dim: int, out_dim: int, project_cls: bool) -> None:
        super().__init__()
        self.layer = _TokenConv(in_dim, out_dim, width=_POOL)
        self.cls_layer = nn.Linear(in_dim, out_dim) if project_cls else nn.Identity()

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, in]`` to ``[B, N // 3, out]``."""
        return self.layer(tokens), None if cls is None else self.cls_layer(cls)


class SelfAttention(nn.Module):
    """One pre-norm transformer block over class vector and tokens, zero-padded in front to a multiple of the heads."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.padding = -dim % _NUM_HEADS
        self.block = _Block(dim + self.padding)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, C]`` and ``[B, C]``, having seen each other."""
        sequence = tokens if cls is None else torch.cat([cls[:, None], tokens], dim=1)
        seen = self.block(functional.pad(sequence, (self.padding, 0)))[..., self.padding :]
        return (seen, None) if cls is None else (seen[:, 1:], seen[:, 0])


class Aligner(nn.Module):
    """A chain of stages.

    Args:
        kind: name of the chain as checkpoints store it, one of `ALIGNERS`.
        in_dim: width of the backbone's tokens.
        out_dim: width of the aligned tokens, DenseAV's ``code_dim``.

    Attributes:
        pool: backbone tokens per aligned token.

    Raises:
        InputError: if the kind is unknown.
    """

    def __init__(self, kind: str, in_dim: int, out_dim: int) -> None:
        super().__init__()
        if kind not in ALIGNERS:
            raise InputError(f"DenseAV's audio aligner is {kind!r}: only {', '.join(ALIGNERS)} are known.")
        stages = ALIGNERS[kind](in_dim, out_dim)
        self.mod_list = nn.ModuleList(stages)
        self.pool = _POOL ** sum(isinstance(stage, NormedTimePool | TimePool) for stage in stages)

    def forward(self, tokens: Tensor, cls: Tensor | None) -> Pair:
        """``[B, N, in_dim]`` and ``[B, in_dim]`` to ``[B, N', out_dim]`` and ``[B, out_dim]``."""
        for stage in self.mod_list:
            tokens, cls = stage(tokens, cls)
        return tokens, cls


ALIGNERS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "audio_linear": lambda c, d: [Projection(c, d), MeanOverFrequency()],
    "audio_sa": lambda c, d: [Projection(c, d), MeanOverFrequency(), SelfAttention(d)],
    "audio_sa_3_3_pool": lambda c, d: [
        Projection(c, d),
        MeanOverFrequency(),
        NormedTimePool(d),
        NormedTimePool(d),
        SelfAttention(d),
    ],
    "audio_sa_3_3_pool_2": lambda c, d: [
        MeanOverFrequency(),
        TokenNorm(c),
        TimePool(c, d, project_cls=True),
        TimePool(d, d, project_cls=False),
        SelfAttention(d),
    ],
}
"""Stages of every known aligner from backbone width c to ``code_dim`` d."""


class _TokenConv(nn.Conv2d):
    """A convolution along time over non-overlapping groups of ``width`` tokens; a rest is dropped."""

    def __init__(self, in_dim: int, out_dim: int, width: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=(1, width), stride=(1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        # [B, N, C] to [B, C, 1, N], the layout of the public weights
        return super().forward(tokens.mT.unsqueeze(2)).squeeze(2).mT


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attn = _PackedAttention(dim)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = _FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class _PackedAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, _NUM_HEADS, -1)).permute(2, 0, 3, 1, 4)
        result: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return result


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return result
