"""Rotary positions: several axes for video tokens, one time axis shared by video and audio.

Pairs of neighbouring channels (2i, 2i + 1) are rotated by ``position * theta^(-2i / dim)``; angles are computed in
float64 and kept as real float32 tables, so that no precision setting can touch them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, dim: int, theta: float = 10000.0) -> Tensor:
    """Angles ``[..., dim / 2]`` (float64) of ``positions`` ``[...]`` on one axis of ``dim`` channels."""
    # float64: a late position multiplies the rounding error of its frequency
    exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.double().unsqueeze(-1) * theta**-exponent


def rotary_table(positions: Tensor, axis_dims: Sequence[int], theta: float = 10000.0) -> Tensor:
    """Cosines and sines for positions on several axes.

    Args:
        positions: ``[S, A]``, one column per axis.
        axis_dims: channels given to each axis; they add up to the head width d.
        theta: base of the frequencies.

    Returns:
        float32 ``[2, S, d / 2]``: cosines, sines.
    """
    angles = torch.cat([rotary_angles(positions[:, a], dim, theta) for a, dim in enumerate(axis_dims)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate heads ``[..., S, d]`` by ``table`` ``[2, S, d / 2]`` (or ``[2, ..., S, d / 2]``); float32."""
    # float32 even under autocast: there are no complex numbers in bfloat16
    pairs = torch.unflatten(x.float(), -1, (-1, 2))  # [..., S, d / 2, 2]
    if torch.compiler.is_compiling():
        # compilers fuse real products and call complex ones; by themselves real ones are four passes instead of one
        even, odd = pairs.unbind(-1)
        return torch.stack(rotated_pairs(even, odd, table[0], table[1]), dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(table[0], table[1])).flatten(-2)


def rotated_pairs(even: Tensor, odd: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The complex product ``(even + i odd) (cos + i sin)`` in real numbers."""
    return even * cos - odd * sin, even * sin + odd * cos


def wan_axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of Wan's rotary axes: time, row, column (44, 42, 42 of 128)."""
    # as diffusers splits it: a third each, rounded down to even, and time takes the rest
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side
