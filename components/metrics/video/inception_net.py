"""The Inception of FID: torchvision's network with the poolings of the TensorFlow model of December 2015.

State-dict keys are those of ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid, torch-fidelity). Imported where it
is needed, because torchvision is an extra.

Legend for shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception

POOLED = 2048
CLASSES = 1008


class AverageOfWhatIsThere:
    """The last branch averages over pixels alone, not over the padding beside them."""

    branch_pool: Any

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = super()._forward(x)  # type: ignore[misc]
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return [*branches[:-1], self.branch_pool(pooled)]


class MaximumOfWhatIsThere:
    """The last branch takes the maximum: an oddity of that model, which FID keeps."""

    branch_pool: Any

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = super()._forward(x)  # type: ignore[misc]
        return [*branches[:-1], self.branch_pool(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))]


class FidInceptionA(AverageOfWhatIsThere, inception.InceptionA):  # type: ignore[misc]
    """35 x 35 points."""


class FidInceptionC(AverageOfWhatIsThere, inception.InceptionC):  # type: ignore[misc]
    """17 x 17 points."""


class FidInceptionE(AverageOfWhatIsThere, inception.InceptionE):  # type: ignore[misc]
    """8 x 8 points."""


class LastFidInceptionE(MaximumOfWhatIsThere, inception.InceptionE):  # type: ignore[misc]
    """8 x 8 points."""


class Unused(nn.Linear):
    """The classifier: its weights are there, but features pass it as they are."""

    def forward(self, input: Tensor) -> Tensor:
        """``[N, 2048]`` to the same."""
        return input


class FidInception(inception.Inception3):  # type: ignore[misc]
    """Maps pictures ``[N, 3, H, W]`` in [-1, 1] to pooled features ``[N, 2048]``."""

    def __init__(self) -> None:
        super().__init__(num_classes=CLASSES, aux_logits=False, init_weights=False)
        self.Mixed_5b = FidInceptionA(192, pool_features=32)
        self.Mixed_5c = FidInceptionA(256, pool_features=64)
        self.Mixed_5d = FidInceptionA(288, pool_features=64)
        self.Mixed_6b = FidInceptionC(768, channels_7x7=128)
        self.Mixed_6c = FidInceptionC(768, channels_7x7=160)
        self.Mixed_6d = FidInceptionC(768, channels_7x7=160)
        self.Mixed_6e = FidInceptionC(768, channels_7x7=192)
        self.Mixed_7b = FidInceptionE(1280)
        self.Mixed_7c = LastFidInceptionE(2048)
        self.fc = Unused(POOLED, CLASSES)

    def logits(self, pooled: Tensor) -> Tensor:
        """Pooled features ``[N, 2048]`` to ``[N, 1008]``, without the bias, as inception scores are taken."""
        weight: Tensor = self.fc.weight
        return pooled @ weight.T
