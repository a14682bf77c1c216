"""From the classifier's scores to RelSync, and with ImageBind's likenesses to AlignSync (metrics specification, 5).

Legend for shapes: B clips, T frames.
"""

from __future__ import annotations

from torch import Tensor


def relsync(generated: Tensor, real: Tensor) -> Tensor:
    """The share ``[B]`` of the generated clip in a softmax over both classifier scores ``[B]``: 0.5 is as good as real.

    Equal to the softmax, without its overflow.
    """
    return (generated - real).sigmoid()


def alignsync(relative: Tensor, ia_generated: Tensor, ia_real_first: Tensor) -> Tensor:
    """RelSync ``[B]`` times how well the frames keep fitting the sound: ``[B]``; real clips get 0.25.

    Likenesses are cosines that differ by 0.1 or so, hence the factor is near 0.5 always.

    Args:
        relative: RelSync.
        ia_generated: ``[B, T - 1]`` cosines of the generated frames but the first with the sound.
        ia_real_first: ``[B]`` cosines of the real first frame with the real sound.
    """
    return relative * (ia_generated - ia_real_first[:, None]).sigmoid().mean(dim=1)
