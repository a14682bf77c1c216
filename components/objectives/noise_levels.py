"""How noise levels are drawn in training: logit-normal, bent by a shift, with a share drawn uniformly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.errors import InputError


@dataclass(frozen=True)
class LevelDraws:
    """Random numbers behind one noise level per clip, ``[B]`` each.

    Attributes:
        normal: standard normal.
        uniform: in (0, 1].
        choice: in [0, 1); a level is uniform where this lies below the law's uniform share.
    """

    normal: Tensor
    uniform: Tensor
    choice: Tensor

    @classmethod
    def draw(cls, num: int, generator: torch.Generator | None, device: torch.device | str) -> LevelDraws:
        """Draws for ``num`` clips."""
        uniform, choice = torch.rand(2, num, generator=generator, device=device)
        # (0, 1] instead of [0, 1): level 0 would tell the model that the clip is clean and given
        return cls(torch.randn(num, generator=generator, device=device), 1 - uniform, choice)


@dataclass(frozen=True)
class NoiseLevels:
    """Law of the noise level s in (0, 1] of one modality: ``s = k u / (1 + (k - 1) u)``, ``u = sigmoid(m + d n)``.

    Attributes:
        shift: k; the sampler's shift, so that training meets the levels of sampling (5 for Wan2.2).
        mean: m.
        deviation: d.
        uniform_share: share of clips whose s is drawn uniformly, so that no level is rare.

    Raises:
        InputError: for a number out of range.
    """

    shift: float = 5.0
    mean: float = 0.0
    deviation: float = 1.0
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        for name, value in (("shift", self.shift), ("deviation", self.deviation)):
            if not value > 0:
                raise InputError(f"NoiseLevels.{name} is {value}; it must be positive.")
        if not 0 <= self.uniform_share <= 1:
            raise InputError(f"NoiseLevels.uniform_share is {self.uniform_share}; it must lie between 0 and 1.")

    def __call__(self, draws: LevelDraws) -> Tensor:
        """Noise levels ``[B]``, float32. On the same draws, laws of different shifts differ by the bend alone."""
        u = torch.sigmoid(self.mean + self.deviation * draws.normal)
        bent = self.shift * u / (1 + (self.shift - 1) * u)
        return torch.where(draws.choice < self.uniform_share, draws.uniform, bent)
