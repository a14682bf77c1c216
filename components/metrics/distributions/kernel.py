"""Kernel distance between two sets of features: KID of frames, KVD of clips.

The unbiased squared maximum mean discrepancy under the polynomial kernel ``(x . y / dim + 1)^3``. Binkowski et al.,
"Demystifying MMD GANs" (2018); metrics specification, section 8. Over whole sets, as MM-Diffusion and JavisBench take
it: torchmetrics' KID averages over random subsets, which needs sets of equal size and gives other numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_BLOCK = 2048
"""Rows whose products with all others are held at once."""


def kernel_distance(real: Tensor, generated: Tensor, degree: int = 3) -> Tensor:
    """Unbiased estimate of the squared discrepancy, float64; it can be below 0 where the sets are alike.

    Args:
        real: features ``[M, dim]``.
        generated: features ``[N, dim]``.
        degree: of the polynomial.

    Returns:
        A scalar; NaN where a set has fewer than two features.
    """
    real, generated = real.double(), generated.double()
    if min(len(real), len(generated)) < 2:
        return real.new_tensor(math.nan)
    within = sum(_mean_of_others(features, degree) for features in (real, generated))
    across = _kernel_sum(real, generated, degree) / (len(real) * len(generated))
    return within - 2 * across


def _mean_of_others(features: Tensor, degree: int) -> Tensor:
    """Mean kernel of all pairs of two different features: pairs with itself are what makes the estimate biased."""
    itself = (features.square().mean(dim=1) + 1).pow(degree).sum()
    return (_kernel_sum(features, features, degree) - itself) / (len(features) * (len(features) - 1))


def _kernel_sum(left: Tensor, right: Tensor, degree: int) -> Tensor:
    parts = [(block @ right.T / left.shape[1] + 1).pow(degree).sum() for block in left.split(_BLOCK)]
    return torch.stack(parts).sum()


class KernelDistance(Metric):
    """Kernel distance of two sets that arrive in batches.

    The features themselves are kept, 4 bytes a number, because sums that would do take ``dim^3`` numbers. They are kept
    as rows of one float32 line each: torchmetrics lets a rank without clips send such a line, of length 0, and nothing
    else.

    Args:
        dim: numbers per feature.
        degree: of the polynomial.
        kwargs: handed to :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    real: list[Tensor] | Tensor
    generated: list[Tensor] | Tensor

    def __init__(self, dim: int, degree: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.degree = dim, degree
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Adds features ``[N, dim]`` of the real or the generated set; they are kept as float32."""
        kept = self.real if real else self.generated
        assert isinstance(kept, list)  # one tensor only while several ranks' features are together, in `compute`
        kept.append(features.detach().float().flatten())

    def compute(self) -> Tensor:
        """The distance, float64; NaN where a set has fewer than two features."""
        return kernel_distance(self._rows(self.real), self._rows(self.generated), self.degree)

    def _rows(self, kept: list[Tensor] | Tensor) -> Tensor:
        line = dim_zero_cat(kept) if len(kept) else torch.zeros(0, device=self.device)
        return line.view(-1, self.dim)
