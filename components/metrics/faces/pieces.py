"""Pieces of pictures at a small size, each pixel the mean of those it stands for.

By sums over all rectangles from the first corner (summed areas), so that pieces of any size and number cost the same
and come out together. Sums of 8-bit values are integers: nothing is rounded before the mean, on any device.

Legend for shapes: F frames, H x W pixels, n pieces, h x w pixels of a small picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


class SummedPictures:
    """8-bit pictures of which pieces are wanted.

    Args:
        pictures: uint8 ``[F, 3, H, W]``.
    """

    def __init__(self, pictures: Tensor) -> None:
        self.num_frames, _, self.height, self.width = pictures.shape
        # int32 moves half the memory, and holds the sums of pictures up to 8 million pixels
        whole = torch.int32 if 255 * self.height * self.width < 2**31 else torch.int64
        # channels last, for they are read together; a row and a column of zeros before the first
        pixels = pad(pictures.permute(0, 2, 3, 1), (0, 0, 1, 0, 1, 0))
        self._sums = pixels.cumsum(dim=1, dtype=whole).cumsum(dim=2, dtype=whole)

    def whole(self, height: int, width: int) -> Tensor:
        """All pictures, at another size: ``[F, 3, h, w]`` in 0..255."""
        ends = torch.tensor([[self.height], [self.width]], device=self._sums.device)
        top, bottom = (edges[0] for edges in _parts(0 * ends[0], ends[0], height))
        left, right = (edges[0] for edges in _parts(0 * ends[1], ends[1], width))
        # first whole rows, then columns: every picture has the same
        rows = self._sums[:, bottom] - self._sums[:, top]
        return _means(rows[:, :, right] - rows[:, :, left], bottom - top, right - left)

    def cut(self, frames: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
        """Pieces at one size.

        Args:
            frames: int64 ``[n]``, which picture each is cut from.
            boxes: int64 ``[n, 4]``: first column and row, and those behind the last; within the picture, not empty.
            height: rows of the result.
            width: its columns.

        Returns:
            float32 ``[n, 3, height, width]`` in 0..255. A pixel is the mean of all that its part of the box touches, as
            ``torch.nn.functional.interpolate(mode="area")`` has it.
        """
        left, right = _parts(boxes[:, 0], boxes[:, 2], width)
        top, bottom = _parts(boxes[:, 1], boxes[:, 3], height)
        sums, which = self._sums, frames[:, None, None]

        def up_to(rows: Tensor, columns: Tensor) -> Tensor:
            return sums[which, rows[:, :, None], columns[:, None, :]]

        total = up_to(bottom, right) - up_to(top, right) - up_to(bottom, left) + up_to(top, left)
        return _means(total, bottom - top, right - left)


def _means(total: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums ``[n, h, w, 3]`` over ``rows`` ``[..., h]`` by ``columns`` ``[..., w]`` pixels to means ``[n, 3, h, w]``."""
    pixels = rows[..., :, None] * columns[..., None, :]
    return (total.float() / pixels[..., None]).permute(0, 3, 1, 2)


def _parts(begin: Tensor, end: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each of ``count`` parts of ``[n]`` stretches begins and ends, two int64 ``[n, count]``; parts may share."""
    part, length = torch.arange(count, device=begin.device), (end - begin)[:, None]
    first = part * length // count
    last = ((part + 1) * length + count - 1) // count
    return begin[:, None] + first, begin[:, None] + last
