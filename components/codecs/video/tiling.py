"""Running a spatial map tile by tile, with linear cross-fades where tiles overlap.

Source: the Pyramid Flow specification, section 2. Memory then depends on the tile and not on the frame, at a price:
normalisation and attention see one tile only, so the result differs from the untiled one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def stride_of(tile: int) -> int:
    """Neighbouring tiles start three quarters of a tile apart and share one quarter."""
    return tile * 3 // 4


def map_tiles(
    run: Callable[[Tensor], Tensor], source: Tensor, canvas: Tensor, source_tile: int, canvas_tile: int
) -> Tensor:
    """Fills ``canvas`` with ``run`` of the tiles of ``source``, row by row from the top left.

    A tile is faded into its (already faded) upper neighbour first and into its left neighbour second. In a corner that
    four tiles share, this weighs the upper left one a little more than a product of the two fades would.

    Args:
        run: maps ``[..., th, tw]`` to a new tensor ``[..., th', tw']`` scaled as ``canvas_tile`` is to ``source_tile``.
        source: ``[..., H, W]``.
        canvas: ``[..., H', W']``, overwritten.
        source_tile: side of a tile in ``source``; a multiple of 4.
        canvas_tile: side of a tile in ``canvas``; a multiple of 4.

    Returns:
        ``canvas``.
    """
    stride, step = stride_of(source_tile), stride_of(canvas_tile)
    fade = canvas_tile - step
    height, width = source.shape[-2:]
    above: list[Tensor] = []
    for row, top in enumerate(range(0, height, stride)):
        bottoms: list[Tensor] = []
        left: Tensor | None = None
        for column, start in enumerate(range(0, width, stride)):
            tile = run(source[..., top : top + source_tile, start : start + source_tile])
            if row:
                _fade_in(tile, above[column], dim=-2)
            if left is not None:
                _fade_in(tile, left, dim=-1)
            kept = tile[..., :step, :step]
            # only what no later tile fades into; the last tiles of a row or column are cut by the canvas
            canvas[..., row * step :, column * step :][..., : kept.shape[-2], : kept.shape[-1]] = kept
            bottoms.append(tile[..., -fade:, :].clone())  # strips only: the tile itself can go
            left = tile[..., -fade:].clone()
        above = bottoms
    return canvas


def _fade_in(tile: Tensor, before: Tensor, dim: int) -> None:
    """Cross-fades the start of ``tile`` (in place) with the end of ``before`` along ``dim``, weight 0 to almost 1."""
    length = min(tile.shape[dim], before.shape[dim])
    # weight 0 first: the seam begins as the neighbour left it
    weight = torch.arange(length, device=tile.device, dtype=tile.dtype) / length
    if dim == -2:
        weight = weight[:, None]
    start = tile.narrow(dim, 0, length)  # a view: the copy below changes the tile
    end = before.narrow(dim, before.shape[dim] - length, length)
    start.copy_(torch.lerp(end, start, weight))
