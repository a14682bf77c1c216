"""The contrastive loss that teaches SyncNet which sound belongs to which lips.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), eq. 1, with d the distance of two embeddings:

    E = 1 / 2N sum  y d^2 + (1 - y) max(margin - d, 0)^2        y = 1 for true pairs, 0 for false ones

Legend for shapes: B clips, N windows (25 per second), D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.errors import InputError


@dataclass(frozen=True)
class SyncContrastiveLoss:
    """True pairs share their time; false ones are windows of one clip some frames apart, every such pair of a batch.

    Speaker and scene are the same on both sides of a false pair, so that only timing can tell it. Both halves of the
    sum are averaged on their own: false pairs are many times as many.

    Attributes:
        margin: false pairs further apart than this cost nothing; the scale of Sync-C and Sync-D.
        min_shift: frames from which on a pair counts as false. Neighbours share most of what they show and hear.
        max_shift: frames up to which pairs are taken.

    Raises:
        InputError: for a margin or shifts out of range.
    """

    margin: float = 10.0
    min_shift: int = 2
    max_shift: int = 15

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise InputError(f"SyncContrastiveLoss.margin is {self.margin}; it must be positive")
        if not 1 <= self.min_shift <= self.max_shift:
            raise InputError(
                f"SyncContrastiveLoss.min_shift is {self.min_shift}; it must lie between 1 and max_shift, "
                f"{self.max_shift}"
            )

    def __call__(self, lips: Tensor, sound: Tensor) -> Tensor:
        """The loss of embeddings ``[B, N, D]`` of both sides; window n of one belongs to window n of the other.

        Raises:
            InputError: if the clips are too short for a false pair.
        """
        num_windows = lips.shape[1]
        if num_windows <= self.min_shift:
            raise InputError(
                f"clips of {num_windows} windows hold no pair {self.min_shift} frames apart; use longer clips"
            )
        distances = torch.cdist(lips, sound)  # [B, N, N]
        frames = torch.arange(num_windows, device=lips.device)
        shift = (frames[:, None] - frames).abs()  # [N, N] frames between lips and sound
        false = (shift >= self.min_shift) & (shift <= self.max_shift)
        # y d^2, over windows of the same time
        close = (lips - sound).square().sum(dim=-1).mean()
        # [B, false pairs]: (1 - y) max(margin - d, 0)^2
        apart = (self.margin - distances[:, false]).clamp(min=0).square().mean()
        # the 1/2 of 1/2N
        return (close + apart) / 2
