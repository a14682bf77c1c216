"""What every audio layer needs of a column beside tokens and sound; made once per call of the transformer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from einops import rearrange
from torch import Tensor
from torch.utils._pytree import register_dataclass

from components.backbones.pyramid_flow.column import TokenLayout
from components.backbones.syncphony.audio_windows import AudioWindows


@dataclass(frozen=True)
class Listening:
    """Where a column's N video tokens stand in time and what their latent frames hear.

    Attributes:
        first_frame: latent frame of the first video token.
        runs: consecutive latent frames of one size, as (frames, tokens per frame). Neighbouring clips of one resolution
            are one run: an audio layer's attention is local to a frame.
        rope: rotary table of the video tokens ``[2, N, d / 2]``.
        allowed: of every run the keys that are attended to, bool ``[R frames, 1, 1, W]``.
        hears: bool ``[R, N, 1]``, False where a token's whole window is padding.
    """

    first_frame: int
    runs: tuple[tuple[int, int], ...]
    rope: Tensor
    allowed: tuple[Tensor, ...]
    hears: Tensor

    @classmethod
    def of(cls, layout: TokenLayout, windows: AudioWindows) -> Listening:
        """Of a column whose rows are the clips of ``windows``."""
        runs = tuple((len(list(group)), size) for size, group in groupby(layout.frame_sizes()))
        frames = [count for count, _ in runs]
        # a column is a prefix, a window belongs to its frame: later sound is never read, nor that of frames in memory
        heard = windows.audible.narrow(1, layout.first_frame, sum(frames))
        any_heard = heard.any(dim=-1, keepdim=True)  # [R, t, 1]
        # a row without any allowed key would be NaN; what such a frame reads instead is multiplied by 0
        allowed = (heard | ~any_heard).split(frames, dim=1)
        hears = [
            part.expand(-1, -1, size).flatten(1)
            for part, (_, size) in zip(any_heard.split(frames, dim=1), runs, strict=True)
        ]
        return cls(
            first_frame=layout.first_frame,
            runs=runs,
            rope=windows.query_table(layout),
            allowed=tuple(rearrange(part, "r t w -> (r t) 1 1 w") for part in allowed),
            hears=torch.cat(hears, dim=1).unsqueeze(-1),
        )

    @property
    def frames(self) -> list[int]:
        """Latent frames of every run."""
        return [frames for frames, _ in self.runs]


register_dataclass(Listening)  # see `components.backbones.pyramid_flow.state`
