"""S3FD's network (Zhang et al., 2017, arXiv 1708.05237): VGG-16 that asks for faces at six of its depths.

Parameter names are those of ``sfd_face.pth``, which SyncNet's public pipeline finds faces with.

Legend for shapes: F pictures, H x W pixels, P anchors, h x w cells of a depth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

STRIDES = (4, 8, 16, 32, 64, 128)
ANCHORS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Pixels from one cell to the next at each depth, and the side of the square face expected there."""
_VARIANCES = 0.1, 0.2
"""Units in which the network gives places and logarithms of sizes."""
_VGG: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512, "M")
_TAPS = 16, 23, 30
"""Where in the sequence the first three depths end."""


class ScaledNorm(nn.Module):
    """Feature vectors of length 1 times a learnt factor per channel."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, features: Tensor) -> Tensor:
        """``[F, C, h, w]`` to the same."""
        length = features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
        return self.weight[:, None, None] * (features / length)


class S3FDNet(nn.Module):
    """Pictures to anchors: how likely each is a face, and its box. 22.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = nn.ModuleList(_vgg_layers())
        self.L2Norm3_3, self.L2Norm4_3 = ScaledNorm(256, 10.0), ScaledNorm(512, 8.0)
        self.L2Norm5_3 = ScaledNorm(512, 5.0)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, stride=2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, stride=2, padding=1),
            ]
        )
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        # at the first depth most anchors are background, which has three chances to say so
        self.conf = nn.ModuleList(nn.Conv2d(width, 2 if n else 4, 3, padding=1) for n, width in enumerate(widths))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """RGB ``[F, 3, H, W]`` in 0..255 less the mean colour, to probabilities ``[F, P]`` and boxes ``[F, P, 4]``.

        Boxes are ``(left, top, right, bottom)`` in pixels of these pictures.
        """
        scores, boxes = [], []
        depths = zip(self._depths(pictures), self.loc, self.conf, STRIDES, ANCHORS, strict=True)
        for features, loc, conf, stride, side in depths:
            logits = conf(features)
            background, face = logits[:, :-1].amax(dim=1), logits[:, -1]
            scores.append(torch.stack([background, face]).softmax(dim=0)[1].flatten(1))
            boxes.append(_boxes(loc(features), stride, side))
        return torch.cat(scores, dim=1), torch.cat(boxes, dim=1)

    def _depths(self, pictures: Tensor) -> list[Tensor]:
        first, second, third = _TAPS
        found, hidden = [], pictures
        norms = dict(zip(_TAPS, (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3), strict=True))
        for begin, end in ((0, first), (first, second), (second, third), (third, len(self.vgg))):
            for layer in self.vgg[begin:end]:
                hidden = layer(hidden)
            found.append(norms[end](hidden) if end in norms else hidden)
        for n, layer in enumerate(self.extras):
            hidden = relu(layer(hidden))
            if n % 2:
                found.append(hidden)
        return found


def _boxes(offsets: Tensor, stride: int, side: float) -> Tensor:
    """Offsets ``[F, 4, h, w]`` from the anchors of a depth to boxes ``[F, h w, 4]``."""
    rows, columns = (torch.arange(count, device=offsets.device) + 0.5 for count in offsets.shape[2:])
    anchors = stride * torch.stack(torch.meshgrid(columns, rows, indexing="xy"))  # [2, h, w]: across, down
    centre = anchors + offsets[:, :2] * _VARIANCES[0] * side
    half = side * (offsets[:, 2:] * _VARIANCES[1]).exp() / 2
    return torch.cat([centre - half, centre + half], dim=1).flatten(2).transpose(1, 2)


def _vgg_layers() -> list[nn.Module]:
    """VGG-16's convolutions, and its first dense layers as two more; M and C are poolings (C: sizes are rounded up)."""
    layers: list[nn.Module] = []
    width = 3
    for item in _VGG:
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=item == "C"))
        else:
            layers += [nn.Conv2d(width, item, 3, padding=1), nn.ReLU()]
            width = item
    dense = [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()]
    return [*layers, *dense]
