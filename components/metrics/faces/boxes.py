"""Boxes ``(left, top, right, bottom)`` in pixels: how far they overlap, and which of those that do are kept.

Legend for shapes: n boxes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Overlap = Callable[[Tensor], Tensor]
"""Boxes ``[n, 4]`` to how far each overlaps each, ``[n, n]`` in [0, 1]."""


def over_union(boxes: Tensor) -> Tensor:
    """Intersection over union of ``[n, 4]`` with itself: ``[n, n]``."""
    both, areas = _areas(boxes, border=0)
    return both / (areas[:, None] + areas - both)


def over_smaller(boxes: Tensor) -> Tensor:
    """Intersection over the smaller of two boxes, ``[n, n]``; edges are pixels that belong to the box (MTCNN's way)."""
    both, areas = _areas(boxes, border=1)
    return both / torch.minimum(areas[:, None], areas)


def _areas(boxes: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Pixels that each pair shares ``[n, n]``, and those of each ``[n]``."""
    begin, end = boxes[:, :2], boxes[:, 2:] + border
    sides = (torch.minimum(end[:, None], end) - torch.maximum(begin[:, None], begin)).clamp(min=0)
    return sides.prod(dim=2), (end - begin).prod(dim=1)


def strongest(
    boxes: Tensor, scores: Tensor, groups: Tensor, max_overlap: float, overlap: Overlap = over_union
) -> Tensor:
    """Non-maximum suppression: which boxes are kept, best first.

    Greedy as everywhere: in the order of their scores, a box goes if it overlaps one that is kept by more than
    ``max_overlap``. Boxes of equal score keep their order.

    Args:
        boxes: ``[n, 4]``.
        scores: ``[n]``.
        groups: int64 ``[n]``; boxes of different groups (frames) do not see each other.
        max_overlap: from 0 to 1.
        overlap: how it is measured.

    Returns:
        int64 ``[m]``, places in ``boxes``, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = torch.zeros_like(order, dtype=torch.bool)
    for group in groups.unique().tolist():
        places = (groups[order] == group).nonzero()[:, 0]
        kept[places] = _survivors(overlap(boxes[order[places]]) > max_overlap)
    return order[kept]


def _survivors(too_near: Tensor) -> Tensor:
    """Which of n boxes, best first, survive; ``too_near`` ``[n, n]`` says which pairs cannot both.

    All boxes are decided at once, again and again until nothing changes: the k-th is right after k rounds at most,
    because those before it are, and a few rounds do. The result is that of the loop over boxes.
    """
    by_better = too_near.tril(diagonal=-1).float()
    kept = torch.ones(len(too_near), dtype=torch.bool, device=too_near.device)
    while True:
        decided = by_better @ kept.float() == 0
        if torch.equal(decided, kept):
            return kept
        kept = decided


def squares(boxes: Tensor) -> Tensor:
    """Boxes ``[n, 4]`` to squares of their longer side around the same centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.amax(dim=1, keepdim=True)
    begin = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([begin, begin + longer], dim=1)


def moved(boxes: Tensor, offsets: Tensor, border: int) -> Tensor:
    """Each edge of ``[n, 4]`` shifted by ``offsets`` ``[n, 4]``, in units of the box's sides plus ``border`` pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + border
    return boxes + offsets * sides.repeat(1, 2)
