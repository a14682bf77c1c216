"""Distances between the generated and the real clips as sets: what FID, FVD, KVD and FAD have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from components.errors import InputError
from components.metrics.distributions.frechet import FrechetDistance
from components.metrics.distributions.kernel import KernelDistance

DISTANCES: dict[str, Callable[[int], Metric]] = {"frechet": FrechetDistance, "kernel": KernelDistance}
"""Name -> metric with ``update(features, real)``; all are lower for sets that are more alike."""


class SetDistance(MetricCollection):
    """Distances between two sets of features that arrive in batches, the same under any sharding.

    Args:
        dim: numbers per feature.
        distances: which: ``frechet`` (FID, FVD, FAD) and ``kernel`` (KID, KVD).

    Raises:
        InputError: if there is no such distance.

    Example:
        >>> metric = SetDistance(dim=1)
        >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'frechet': 9.0, 'kernel': 3259.0, 'n_generated': 2, 'n_real': 2}
    """

    def __init__(self, dim: int, distances: Sequence[str] = ("frechet", "kernel")) -> None:
        unknown = [name for name in distances if name not in DISTANCES]
        if unknown or not distances or isinstance(distances, str):
            raise InputError(f"distances is {distances!r}; give a list of {' and '.join(DISTANCES)}, at least one")
        members: dict[str, Metric | MetricCollection] = {name: DISTANCES[name](dim) for name in distances}
        # groups would look for metrics with equal states; there are none
        super().__init__({**members, "sizes": SetSizes()}, compute_groups=False)
        self.dim = dim

    # a collection of metrics is a dict of modules to PyTorch, whose `update` takes modules
    def update(self, features: Tensor, real: bool) -> None:  # type: ignore[override]
        """Adds features ``[N, dim]`` of the real or the generated set.

        Raises:
            InputError: if they have another width, or are not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise InputError(f"features are {list(features.shape)}; [clips, {self.dim}] are needed: set dim to match")
        if not features.isfinite().all():
            raise InputError("features hold numbers that are not finite, and no distance is known of those")
        super().update(features, real=real)

    def compute(self) -> dict[str, Tensor]:
        """Each distance by its name, float64 (NaN where a set has fewer than two features); ``n_real`` and
        ``n_generated`` features.
        """
        return dict(sorted(super().compute().items()))


class SetSizes(Metric):
    """How many features each set has: distances of small sets are biased and not comparable between sizes."""

    is_differentiable = False
    full_state_update = False

    n_real: Tensor
    n_generated: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("n_real", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("n_generated", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Counts features ``[N, dim]``."""
        if real:
            self.n_real += len(features)
        else:
            self.n_generated += len(features)

    def compute(self) -> dict[str, Tensor]:
        """``n_real`` and ``n_generated``."""
        return {"n_real": self.n_real, "n_generated": self.n_generated}
