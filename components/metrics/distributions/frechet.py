"""Frechet distance between two sets of features: FID of frames, FVD of clips, FAD of sounds.

``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of means and covariances (ddof 1). Heusel et al., "GANs Trained by a Two
Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017); metrics specification, section 8.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


class FrechetDistance(FrechetInceptionDistance):
    """Torchmetrics' Frechet distance of features that were extracted before.

    States are sums of features and of their outer products in float64, exact under any sharding; a rank may be without
    clips.

    Args:
        dim: numbers per feature.
        kwargs: handed to :class:`torchmetrics.Metric`.

    Example:
        >>> metric = FrechetDistance(dim=1)
        >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)
        >>> metric.compute().item()
        9.0
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(feature=_Extracted(dim), **kwargs)
        # the result's type, which otherwise only an update would set
        self.orig_dtype = torch.float64

    def update(self, features: Tensor, real: bool) -> None:
        """Adds features ``[N, dim]`` of the real or the generated set."""
        super().update(features.double(), real)

    def compute(self) -> Tensor:
        """The distance, float64; NaN where a set has fewer than two features."""
        if min(self.real_features_num_samples.item(), self.fake_features_num_samples.item()) < 2:
            return self.real_features_sum.new_tensor(math.nan)
        # rounding can take the distance of equal sets below 0
        return super().compute().clamp(min=0)


class _Extracted(nn.Identity):
    """The extractor that torchmetrics asks for, where features arrive as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim
