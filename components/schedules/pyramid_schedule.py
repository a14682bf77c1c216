"""Noise levels of the spatial pyramid: stages, their timesteps, and the jump from one stage into the next.

Source: Pyramid Flow (arXiv 2410.05954), section 3.2 and the released schedule. Inside stage s the path is straight,
``x(r) = r * start + (1 - r) * end`` with the *local* noise level r running from 1 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.errors import InputError


class PyramidSchedule:
    """Noise levels and timesteps of every pyramid stage (0 is the coarsest).

    Args:
        stages: number of resolutions.
        stage_range: ``stages + 1`` fractions of the global noise range at which the stages meet.
        gamma: minus the correlation inside a 2x2 block of the noise added at a jump; at most 1/3.
        shift: shift of the global noise levels towards 1.
        num_train_timesteps: points of the global grid, and of the grid inside each stage.

    Attributes:
        nominal_start: global noise level at which each stage begins, before the correction for upsampled noise.
        start_sigma: corrected noise level at which each stage begins.
        end_sigma: noise level at which each stage ends.
        timestep_ratio: share ``(from, to)`` of the timestep axis that belongs to each stage.
        train_timesteps: float64 ``[num_train_timesteps]`` per stage.
        train_local_sigma: float64 ``[num_train_timesteps]``, the same for every stage: ``1 - i / num_train_timesteps``.
    """

    def __init__(
        self,
        stages: int = 3,
        stage_range: Sequence[float] | None = None,
        gamma: float = 1 / 3,
        shift: float = 1.0,
        num_train_timesteps: int = 1000,
    ) -> None:
        if stage_range is None:
            stage_range = [i / stages for i in range(stages + 1)]
        if len(stage_range) != stages + 1:
            raise InputError(f"stage_range is {list(stage_range)}; give {stages + 1} numbers for {stages} stages")
        if not 0 < gamma <= 1 / 3 + 1e-9:
            raise InputError(f"gamma is {gamma}; it must lie in (0, 1/3]: beyond it the block noise has no covariance")
        self.stages = stages
        self.gamma = gamma
        self.num_train_timesteps = n = num_train_timesteps

        # float32 as released: 1.0, 0.999, ... 0.001
        sigmas = np.arange(n, 0, -1, dtype=np.float32) / np.float32(n)
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        global_timesteps = sigmas * n

        # Stages of three thirds meet at grid points 333 and 666: noise levels 0.667 and 0.334.
        cuts = [min(max(int(fraction * n), 0), n) for fraction in stage_range]
        level = [float(sigmas[i]) if i < n else 0.0 for i in cuts]
        self.nominal_start = level[:-1]
        self.end_sigma = level[1:]
        # stage 0 starts from plain noise: nothing has been upsampled, nothing to correct
        self.start_sigma = [o if s == 0 else self._corrected(o) for s, o in enumerate(self.nominal_start)]

        # Every stage gets a share of the timestep axis as long as its stretch of noise levels, start - end.
        lengths = np.array([a - b for a, b in zip(self.start_sigma, self.end_sigma, strict=True)])
        edges = [0.0, *(np.cumsum(lengths) / lengths.sum())]
        edges[-1] = 1.0  # the sum is off by rounding, and int() below would cut it
        self.timestep_ratio = [(float(a), float(b)) for a, b in pairwise(edges)]

        self.train_timesteps: list[Tensor] = []
        for first, last in self.timestep_ratio:
            top = float(global_timesteps[int(first * n)])
            bottom = float(global_timesteps[min(int(last * n), n - 1)])
            # n points, the end left out: it is the next stage's first
            self.train_timesteps.append(torch.from_numpy(np.linspace(top, bottom, n + 1)[:-1].copy()))
        self.train_local_sigma = torch.from_numpy(np.linspace(1, 0, n + 1)[:-1].copy())
        self._on_device: dict[torch.device, tuple[list[Tensor], Tensor]] = {}

    def _corrected(self, nominal: float) -> float:
        """Start level whose law matches upsampled latents plus block noise: ``1 - (1-o) / (o sqrt(1+1/g) + 1-o)``."""
        # gamma = 1/3 makes it 2 o / (1 + o)
        return 1 - (1 - nominal) / (nominal * math.sqrt(1 + 1 / self.gamma) + 1 - nominal)

    def jump(self, stage: int) -> tuple[float, float]:
        """``(alpha, beta)`` of the jump into ``stage``: ``x <- alpha * up(x) + beta * block_noise`` (stage >= 1)."""
        # Nearest upsampling repeats noise of level o in 2x2 blocks, fully correlated. With alpha^2 o^2 = gamma beta^2
        # the added noise, correlated by -gamma, makes it white again; alpha brings the total to the corrected start S
        # and the signal to 1 - S. So the law is that of training (Pyramid Flow, section 3.2).
        o = self.nominal_start[stage]
        alpha = 1 / (o * math.sqrt(1 + 1 / self.gamma) + 1 - o)
        return alpha, alpha * o / math.sqrt(self.gamma)

    def train_point(self, stage: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps and local noise levels for uniform draws ``u`` in [0, 1): float32, both of ``u``'s shape."""
        # float64, because 1000 u in float32 may round up to the next point
        index = (u.double() * self.num_train_timesteps).long().clamp_(max=self.num_train_timesteps - 1)
        timesteps, local_sigma = self._tables(u.device)
        return timesteps[stage][index], local_sigma[index]

    def _tables(self, device: torch.device) -> tuple[list[Tensor], Tensor]:
        """`train_timesteps` and `train_local_sigma` in float32 on ``device``, which fetches them once."""
        if device not in self._on_device:
            timesteps = [table.float().to(device) for table in self.train_timesteps]
            self._on_device[device] = timesteps, self.train_local_sigma.float().to(device)
        return self._on_device[device]

    def inference_points(self, stage: int, steps: int) -> tuple[list[float], list[float]]:
        """``steps`` timesteps of a stage and the ``steps + 1`` local noise levels between which Euler moves."""
        table = self.train_timesteps[stage]
        timesteps = np.linspace(float(table[0]), float(table[-1]), steps)
        # As released: steps - 1 equal moves down to the last training point, 0.001, and a short one from there to 0.
        local = np.linspace(1.0, float(self.train_local_sigma[-1]), steps)
        return timesteps.tolist(), [*local.tolist(), 0.0]


def euler_step(sample: Tensor, velocity: Tensor, local_from: float, local_to: float) -> Tensor:
    """One Euler move along the stage's straight path, in float32: ``x + (r_to - r_from) * v``."""
    return sample.float() + (local_to - local_from) * velocity.float()


def jump_to_stage(sample: Tensor, block_noise: Tensor, alpha: float, beta: float) -> Tensor:
    """Carry latents ``[B, C, T, h, w]`` into the next stage, twice as high and wide: ``alpha * up(x) + beta * n``."""
    return alpha * upsample_nearest(sample) + beta * block_noise


def block_noise(gaussian: Tensor, gamma: float) -> Tensor:
    """White noise ``[..., h, w]`` to unit-variance noise with correlation ``-gamma`` inside every 2x2 block.

    The covariance ``(1 + gamma) I - gamma 11^T`` has eigenvalue ``1 + gamma`` off the block mean and ``1 - 3 gamma``
    on it, so its square root acts on mean and remainder separately; unlike a Cholesky factor it exists at gamma = 1/3.
    """
    *lead, h, w = gaussian.shape
    blocks = gaussian.reshape(*lead, h // 2, 2, w // 2, 2)
    mean = blocks.mean(dim=(-3, -1), keepdim=True)  # [..., h / 2, 1, w / 2, 1]
    # 0 at the default gamma of 1/3: each block's noise sums to nothing
    on_mean = math.sqrt(max(1 - 3 * gamma, 0.0))
    noise = math.sqrt(1 + gamma) * (blocks - mean) + on_mean * mean
    return noise.reshape(*lead, h, w)


def downsample_mean(latents: Tensor) -> Tensor:
    """2x2 means of ``[B, C, T, h, w]`` (what half-pixel bilinear resampling by exactly 1/2 computes)."""
    b, c, t, h, w = latents.shape
    return F.avg_pool2d(latents.reshape(b, c * t, h, w), 2).reshape(b, c, t, h // 2, w // 2)


def upsample_nearest(latents: Tensor) -> Tensor:
    """Every latent pixel of ``[B, C, T, h, w]`` repeated as a 2x2 block."""
    return latents.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


def downsample_noise(noise: Tensor) -> Tensor:
    """2x2 means times two: keeps unit variance, so that all stages share one noise field."""
    return 2 * downsample_mean(noise)  # the mean of 4 independent normals has standard deviation 1/2


def latent_pyramid(latents: Tensor, stages: int) -> list[Tensor]:
    """The latents at every stage's resolution, coarsest first; the last entry is ``latents`` itself."""
    levels = [latents]
    for _ in range(stages - 1):
        levels.append(downsample_mean(levels[-1]))
    return levels[::-1]
