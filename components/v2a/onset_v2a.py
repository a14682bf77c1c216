"""The light video-to-audio model that CycleSync uses where no large one is at hand.

The network of the light video-to-audio model: frames to the logits of an onset curve.

Legend for shapes: B clips, T frames, H x W pixels, N = 4 T curve values.

Event times from a curve of event probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, gelu, interpolate, max_pool1d, pad

from components.contracts import V2AModel
from components.errors import InputError
from components.metrics.cyclesync.matching import match_events, onset_iou
from components.metrics.cyclesync.motion_peaks import motion_curve
from components.v2a.bursts import render_bursts
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, load_small, write_small
from components.weights.whole_folder import whole_folder

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
        # centred, and differences amplified: they are small beside the pictures
        x = torch.cat((frames - 0.5, _DIFFERENCE_GAIN * change), dim=1)
        x = gelu(self.stem(x))
        # time alone repeats its edges here; space was padded by the layer
        x = gelu(self.motion(pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")))
        # rows kept, columns averaged: height tells where something falls to
        x = adaptive_avg_pool3d(x, (None, self.rows, 1)).squeeze(-1)  # [B, C, T, rows]
        x = x.transpose(2, 3).flatten(1, 2)  # [B, C * rows, T]
        x = gelu(self.context(x))
        x = gelu(self.timing(x))
        logits: Tensor = self.head(x).squeeze(1)
        return logits


def probability_peaks(curve: Tensor, rate_hz: float, threshold: float, min_gap_s: float) -> list[float]:
    """Times of the peaks of a curve that reach a threshold, the higher of any two that are too close.

    A peak's time is the vertex of the parabola through it and its neighbours.

    Args:
        curve: float ``[N]``; value n stands for the time ``n / rate_hz``.
        rate_hz: values per second.
        threshold: smallest height of a peak.
        min_gap_s: peaks at least this far apart are kept.

    Returns:
        Sorted seconds.

    Example:
        >>> import torch
        >>> probability_peaks(torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0, 0.1]), rate_hz=10.0, threshold=0.3, min_gap_s=0.1)
        [0.2]
    """
    values = curve.detach().double().cpu()
    left, middle, right = values[:-2], values[1:-1], values[2:]
    # ">=" on one side: of a plateau of two the first counts, of a longer one nothing
    peaks = ((middle > left) & (middle >= right) & (middle >= threshold)).nonzero().flatten().tolist()
    kept: list[float] = []
    for index in sorted(peaks, key=lambda at: -float(middle[at])):
        before, here, after = float(left[index]), float(middle[index]), float(right[index])
        time = (index + 1 + 0.5 * (before - after) / (before - 2.0 * here + after)) / rate_hz
        if all(abs(time - other) >= min_gap_s for other in kept):
            kept.append(time)
    return sorted(kept)


_STILL = 1e-4  # mean absolute frame difference below which nothing can have happened
_REACH_FRAMES = 3  # an event may be heard this many frames away from the change that shows it
_MATCH_S = 0.1
_EQUAL = 0.002  # scores no further apart than this are equally good


class OnsetV2A(V2AModel):
    """Predicts when something is heard and makes a burst of noise there.

    It is trained on real pairs (see ``V2AModule``) and frozen before it judges; scores are comparable only under the
    same weights. A clip without any motion is silent.

    Args:
        height: rows the network works at; any picture is brought to this size.
        width: columns the network works at.
        fps: frame rate the network works at; any clip is brought to it by what is on screen.
        sample_rate: samples per second of the sound.
        min_gap_s: predicted onsets closer than this count as one.
        stem_channels: see `OnsetNetwork`.
        motion_channels: see `OnsetNetwork`.
        hidden_channels: see `OnsetNetwork`.
        rows: see `OnsetNetwork`.
    """

    threshold: Tensor
    bias_s: Tensor

    def __init__(
        self,
        height: int = 32,
        width: int = 32,
        fps: float = 24.0,
        sample_rate: int = 22_050,
        min_gap_s: float = 0.08,
        stem_channels: int = 12,
        motion_channels: int = 32,
        hidden_channels: int = 64,
        rows: int = 4,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "height": height,
            "width": width,
            "fps": fps,
            "sample_rate": sample_rate,
            "min_gap_s": min_gap_s,
            "stem_channels": stem_channels,
            "motion_channels": motion_channels,
            "hidden_channels": hidden_channels,
            "rows": rows,
        }
        self.height, self.width, self.fps = height, width, fps
        self.sample_rate, self.min_gap_s = sample_rate, min_gap_s
        self.network = OnsetNetwork(stem_channels, motion_channels, hidden_channels, rows)
        # what `calibrate` finds travels with the weights
        self.register_buffer("threshold", torch.tensor([0.5]))
        self.register_buffer("bias_s", torch.tensor([0.0]))

    @property
    def rate_hz(self) -> float:
        """Values per second of the onset curve."""
        return self.fps * STEPS_PER_FRAME

    @torch.no_grad()
    def forward(
        self,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, int]:
        """``[B, T, 3, H, W]`` in [0, 1] to a waveform ``[B, S]`` over ``[0, T / fps]`` s, and its sample rate."""
        onsets = self.onsets(self.curve(video, fps))
        num_samples = round(video.shape[1] / fps * self.sample_rate)
        return render_bursts(onsets, num_samples, self.sample_rate, generators).to(video.device), self.sample_rate

    @torch.no_grad()
    def curve(self, video: Tensor, fps: float) -> Tensor:
        """Probability that something is heard at ``n / rate_hz``: float32 ``[B, N]``, zero where nothing moves."""
        with torch.autocast(video.device.type, enabled=False):
            frames = self.working_frames(video, fps)
            probability = self.network(frames).sigmoid()
            moving = max_pool1d(motion_curve(frames), 2 * _REACH_FRAMES + 1, stride=1, padding=_REACH_FRAMES) > _STILL
        result: Tensor = probability * moving.repeat_interleave(STEPS_PER_FRAME, dim=1)
        return result

    def onsets(self, curves: Tensor | Sequence[Tensor]) -> list[list[float]]:
        """Predicted onset times in seconds, one list for each of B curves ``[N]``."""
        bias = self.bias_s.item()
        return [[max(0.0, time - bias) for time in row] for row in self._peaks(curves, self.threshold.item())]

    def working_frames(self, video: Tensor, fps: float) -> Tensor:
        """``[B, T, 3, H, W]`` in [0, 1] at ``fps`` to the network's size and rate, float32.

        Raises:
            InputError: if there is no frame or ``fps`` is not positive.
        """
        if video.ndim != 5 or video.shape[2] != 3 or not video.shape[1]:
            raise InputError(f"video is {list(video.shape)}; [clips, frames, 3, height, width] with frames is needed")
        if not fps > 0:
            raise InputError(f"fps is {fps}; it must be positive")
        num_frames = video.shape[1]
        if fps != self.fps:
            wanted = max(1, round(num_frames / fps * self.fps))
            # what is on screen half way through each working frame
            middle_s = (torch.arange(wanted, dtype=torch.float64) + 0.5) / self.fps
            index = (middle_s * fps).floor().long().clamp(max=num_frames - 1)
            video = video[:, index.to(video.device)]
        video = video.float()
        if video.shape[-2:] == (self.height, self.width):
            return video
        shrink = video.shape[-2] >= self.height and video.shape[-1] >= self.width
        flat = video.flatten(0, 1)
        size = (self.height, self.width)
        # area averaging loses no motion when shrinking; when enlarging it would leave blocks
        small = interpolate(flat, size, mode="area") if shrink else interpolate(flat, size, mode="bilinear")
        return small.view(len(video), -1, 3, self.height, self.width)

    def calibrate(self, curves: Tensor | Sequence[Tensor], onsets: Sequence[Sequence[float]]) -> float:
        """Sets the threshold that agrees best with true onsets, then the constant lead or lag against them.

        Args:
            curves: B curves ``[N]`` of held-out clips.
            onsets: what should have been found, per clip, in seconds.

        Returns:
            Mean intersection over union within 0.1 s at the chosen threshold.
        """
        scores = {}
        for threshold in (step / 20 for step in range(2, 20)):
            rows = self._peaks(curves, threshold)
            pairs = [onset_iou(truth, row, [_MATCH_S]) for truth, row in zip(onsets, rows, strict=True)]
            known = [pair[0] for pair in pairs if pair is not None]
            scores[threshold] = sum(known) / max(len(known), 1)
        best = max(scores.values())
        # clear cases leave a wide choice: its middle is the safest for videos less clear than these
        equal = [threshold for threshold, score in scores.items() if score >= best - _EQUAL]
        chosen = equal[len(equal) // 2]
        self.threshold.fill_(chosen)
        rows = self._peaks(curves, chosen)
        lags = sorted(
            row[found] - truth[event]
            for truth, row in zip(onsets, rows, strict=True)
            for event, found in match_events(truth, row, _MATCH_S)
        )
        # the median: a few wrong pairs do not move it
        self.bias_s.fill_(lags[len(lags) // 2] if lags else 0.0)
        return best

    def _peaks(self, curves: Tensor | Sequence[Tensor], threshold: float) -> list[list[float]]:
        return [probability_peaks(curve, self.rate_hz, threshold, self.min_gap_s) for curve in curves]

    @classmethod
    @names_files(folder=None)
    def from_pretrained(cls, folder: str | Path, sha256: Sha256 = None) -> OnsetV2A:
        """Reads what `save_pretrained` wrote.

        Args:
            folder: as `components.weights.pretrained.resolve_folder` understands it.
            sha256: digests of files in the folder by their names (see `components.weights.digests`).

        Raises:
            InputError: if the folder or a file is missing, damaged or does not fit.
        """
        return load_small(cls, folder, sha256)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; the folder appears, or changes, as a whole."""
        with whole_folder(Path(folder)) as partial:
            write_small(self, self.config, partial)
