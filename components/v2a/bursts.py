"""Sound with an onset exactly where one is asked for: short noise bursts in silence.

A burst starts at full level and dies away with a time constant of 8 ms, so that the onset detector finds each burst
once, also when the next one follows after 0.08 s, and silence stays silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BURST_DELAY_S = 0.0135
"""How much later than it begins the standard onset detector reports a burst, on average."""

_DECAY_S = 0.008
_LENGTH_S = 0.06
_LEVEL = 0.5


def render_bursts(
    onsets: Sequence[Sequence[float]],
    num_samples: int,
    sample_rate: int,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Tracks with a noise burst at each onset.

    Args:
        onsets: B lists of seconds; those outside the track are left out.
        num_samples: length S of every track.
        sample_rate: samples per second.
        generators: draw the noise, one per clip; None takes the same fixed noise for every clip.

    Returns:
        float32 ``[B, S]`` on the CPU, peaks at 0.5.
    """
    length = round(_LENGTH_S * sample_rate)
    decay = torch.exp(-torch.arange(length) / (_DECAY_S * sample_rate))
    tracks = torch.zeros(len(onsets), num_samples + length)
    for row, times in enumerate(onsets):
        generator = torch.Generator().manual_seed(0) if generators is None else generators[row]
        for time in times:
            noise = torch.randn(length, generator=generator, device=generator.device).cpu() * decay
            start = round(time * sample_rate)
            if 0 <= start < num_samples:
                # each burst to the same peak, whatever its noise
                tracks[row, start : start + length] += noise * (_LEVEL / noise.abs().max())
    return tracks[:, :num_samples].clamp(-1.0, 1.0)
