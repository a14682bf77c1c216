"""The network of the light video-to-audio model: frames to the logits of an onset curve.

Legend for shapes: B clips, T frames, H x W pixels, N = 4 T curve values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, gelu, pad

STEPS_PER_FRAME = 4
_DIFFERENCE_GAIN = 4.0


class OnsetNetwork(nn.Module):
    """Frames and amplified frame differences, two 3D convolutions, two 1D ones, four curve values per frame.

    Metrics specification, section 13. In time, borders repeat the edge, so that a still picture looks the same from
    its first to its last frame.

    Args:
        stem_channels: width of the spatial convolution.
        motion_channels: width of the spatio-temporal convolution.
        hidden_channels: width of the temporal convolutions.
        rows: horizontal bands kept apart by the pooling (what falls is low when it hits).
    """

    def __init__(
        self, stem_channels: int = 12, motion_channels: int = 32, hidden_channels: int = 64, rows: int = 4
    ) -> None:
        super().__init__()
        self.rows = rows
        self.stem = nn.Conv3d(6, stem_channels, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.motion = nn.Conv3d(stem_channels, motion_channels, 3, stride=(1, 2, 2), padding=(0, 1, 1))
        self.context = nn.Conv1d(motion_channels * rows, hidden_channels, 5, padding=2, padding_mode="replicate")
        self.timing = nn.Conv1d(hidden_channels, hidden_channels, 5, padding=2, padding_mode="replicate")
        self.head = nn.ConvTranspose1d(hidden_channels, 1, STEPS_PER_FRAME, stride=STEPS_PER_FRAME)

    def forward(self, video: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` in [0, 1] to logits ``[B, N]``; value ``4 n`` stands for the start of frame n."""
        frames = video.transpose(1, 2)  # [B, 3, T, H, W]
        change = pad(frames.diff(dim=2), (0, 0, 0, 0, 1, 0))
        x = torch.cat((frames - 0.5, _DIFFERENCE_GAIN * change), dim=1)
        x = gelu(self.stem(x))
        x = gelu(self.motion(pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")))
        x = adaptive_avg_pool3d(x, (None, self.rows, 1)).squeeze(-1)  # [B, C, T, rows]
        x = x.transpose(2, 3).flatten(1, 2)  # [B, C * rows, T]
        x = gelu(self.context(x))
        x = gelu(self.timing(x))
        logits: Tensor = self.head(x).squeeze(1)
        return logits
