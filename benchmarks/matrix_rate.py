"""How fast a device multiplies matrices: what it does here and now, and what its data sheet says."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.throughput import get_available_flops


def matrix_products(
    sizes: Sequence[int], dtypes: Sequence[torch.dtype], device: str
) -> dict[tuple[torch.dtype, int], Callable[[], object]]:
    """Square linear layers over as many tokens as channels."""
    actions: dict[tuple[torch.dtype, int], Callable[[], object]] = {}
    for dtype in dtypes:
        for size in sizes:
            x, weight = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            actions[dtype, size] = partial(F.linear, x, weight)
    return actions


def best_rate(seconds: Mapping[tuple[torch.dtype, int], Sequence[float]], dtype: torch.dtype) -> float:
    """FLOP/s of the size that does best in ``dtype``."""
    return max(2 * size**3 / statistics.median(times) for (other, size), times in seconds.items() if other == dtype)


def data_sheet_rate(device: str, dtype: torch.dtype) -> float | None:
    """FLOP/s the manufacturer promises for dense products, where Lightning knows."""
    if not device.startswith("cuda"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a card that is not in its list
        return get_available_flops(torch.device(device), dtype)
