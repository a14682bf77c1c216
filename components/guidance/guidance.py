"""Guidance as a sum of corrections to the positive branch's velocity.

With ``v_pos`` (text, sound), ``v_neg`` (negative text, sound) and ``v_off`` (text, audio layers skipped):

- text guidance (classifier-free, scale g) adds ``(g - 1) (v_pos - v_neg)``, i.e. ``v_neg + g (v_pos - v_neg)`` in all;
- audio sync guidance (Syncphony, "Audio Sync Guidance", scale w) adds ``w (v_pos - v_off)``.

Together: ``v_neg + g (v_pos - v_neg) + w (v_pos - v_off)``. The paper does not say how the two combine; adding both to
the same positive branch keeps each exact when the other is off.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Branches:
    """Velocities of one denoising step, ``[B, C, t, h, w]`` each; None for a branch that is not needed."""

    positive: Tensor
    negative: Tensor | None = None
    off_sync: Tensor | None = None


@dataclass(frozen=True)
class TextGuidance:
    """Classifier-free guidance on the prompt; ``scale`` 1 is off."""

    scale: float = 1.0

    @property
    def enabled(self) -> bool:
        """Whether the negative branch is needed."""
        return self.scale != 1.0

    def delta(self, branches: Branches) -> Tensor:
        """``(g - 1) (v_pos - v_neg)``."""
        if branches.negative is None:
            raise ValueError("text guidance needs the negative branch")
        return (self.scale - 1) * (branches.positive - branches.negative)


@dataclass(frozen=True)
class AudioSyncGuidance:
    """Syncphony's audio sync guidance; ``scale`` 0 is off, the paper uses 2."""

    scale: float = 2.0

    @property
    def enabled(self) -> bool:
        """Whether the off-sync branch is needed."""
        return self.scale != 0.0

    def delta(self, branches: Branches) -> Tensor:
        """``w (v_pos - v_off)``."""
        if branches.off_sync is None:
            raise ValueError("audio sync guidance needs the off-sync branch")
        # on top of the full branch: eps + w (eps - eps_off-sync) (Syncphony, "Audio Sync Guidance")
        return self.scale * (branches.positive - branches.off_sync)


def guided_velocity(branches: Branches, text: TextGuidance, sync: AudioSyncGuidance) -> Tensor:
    """Positive velocity plus the corrections of the guiders that are on."""
    velocity = branches.positive
    for guider in (text, sync):
        if guider.enabled:
            velocity = velocity + guider.delta(branches)
    return velocity
