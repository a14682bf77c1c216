"""Where a sampler's random numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from components.schedules.pyramid_schedule import block_noise


class SamplingNoise(Protocol):
    """Random numbers of one sampling run."""

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Standard normal latents of the whole clip at full resolution."""

    def block(self, unit: int, stage: int, shape: Sequence[int], gamma: float) -> Tensor:
        """Unit-variance noise with correlation ``-gamma`` in 2x2 blocks for the jump of ``unit`` into ``stage``."""


class ClipNoise:
    """One generator per clip, so that a clip's noise does not depend on its batch, its rank or its neighbours.

    Args:
        generators: one per clip, on the device of the latents.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Standard normal ``shape``; its first entry is the number of clips."""
        if shape[0] != len(self.generators):
            raise ValueError(f"{len(self.generators)} generators for {shape[0]} clips")
        return torch.stack([torch.randn(*shape[1:], generator=g, device=g.device) for g in self.generators])

    def block(self, unit: int, stage: int, shape: Sequence[int], gamma: float) -> Tensor:
        """Block noise ``shape`` drawn clip by clip; only the order of calls matters, not ``unit`` and ``stage``."""
        return block_noise(self.initial(shape), gamma)
