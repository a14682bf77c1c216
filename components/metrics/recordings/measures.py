"""What picture and sound of a recording are like: loud, clipped, silent, still, and how far apart in time.

Legend: T frames, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torchaudio.functional as AF
from torch import Tensor

from components.metrics.cyclesync.motion_peaks import motion_curve
from components.metrics.cyclesync.onsets import OnsetDetector

SILENCE_PEAK = 10 ** (-60 / 20)
"""Full scale is 1: nothing louder than this is silence."""
STILL_CHANGE = 0.5 / 255
"""Mean absolute change of a picture, full scale 1: less is the noise of a video codec."""
_PIECE_S = 0.05
_LOUDNESS_BLOCK_S = 0.4
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
_MAX_LAG_S = 0.5
_GRID_HZ = 200.0
_PEAK_WIDTH_S = 0.12
_SMOOTHING_S = 0.02
_LEAST_RISE_DB = 1.0  # a hum or a rustle rises by less, all the time
# The envelope of `OnsetDetector` tells a click so late at this hop; between two frames nobody knows when things moved.
_DETECTOR = OnsetDetector(hop=128)
_DETECTOR_DELAY_S = 0.006


@dataclass(frozen=True)
class Window:
    """Picture and sound of the same seconds.

    Attributes:
        video: uint8 ``[T, 3, H, W]``; T = 0 without picture.
        fps: frames per second.
        audio: float32 ``[S]``; S = 0 without sound.
        sample_rate: samples per second.
    """

    video: Tensor
    fps: float
    audio: Tensor
    sample_rate: int


def silent_share(audio: Tensor, sample_rate: int) -> float | None:
    """Share of pieces of 50 ms in which nothing of ``audio`` ``[S]`` is louder than `SILENCE_PEAK`; None for S = 0."""
    if not len(audio):
        return None
    pieces = audio.abs().split(max(1, round(_PIECE_S * sample_rate)))
    return sum(float(piece.max()) < SILENCE_PEAK for piece in pieces) / len(pieces)


def loudness_lufs(audio: Tensor, sample_rate: int) -> float | None:
    """Integrated loudness of ``audio`` ``[S]`` by ITU-R BS.1770-4; None below 0.4 s or the gate."""
    if len(audio) < math.ceil(_LOUDNESS_BLOCK_S * sample_rate):
        return None
    # torchaudio's filters cut off what they raise beyond full scale (by up to 4 dB)
    room = max(1.0, 2 * float(audio.abs().max()))
    value = float(AF.loudness(audio[None] / room, sample_rate)) + 20 * math.log10(room)
    return value if math.isfinite(value) and value > -70.0 else None


def clipped_share(audio: Tensor) -> float | None:
    """Share of the samples ``[S]`` that stand at full scale for three samples or more; None for S = 0."""
    if not len(audio):
        return None
    full = (audio.abs() >= _FULL_SCALE).numpy()
    borders = np.flatnonzero(np.diff(np.concatenate([[False], full, [False]]).astype(np.int8)))
    lengths = borders[1::2] - borders[::2]
    return float(lengths[lengths >= _CLIPPED_RUN].sum() / len(audio))


def still_share(video: Tensor) -> float | None:
    """Share of the frames ``[T, 3, H, W]`` (uint8) that are as the one before; None below two frames."""
    if len(video) < 2:
        return None
    return float((_change(video)[1:] < STILL_CHANGE).float().mean())


def sound_offset(windows: Sequence[Window]) -> tuple[float, float] | None:
    """By how much the sound is later than the picture, and how sure that is.

    The rise of the sound (`OnsetDetector.strength`) is correlated with the change of the picture at delays of up to
    half a second either way.

    Args:
        windows: parts of one recording; those below a second say nothing.

    Returns:
        Seconds (positive: the sound is late) and a confidence, 0 to 1: by how much the correlation there is above that
        at any other delay; 0 where it is best at the longest delay. None where nothing moves or begins to sound.
    """
    lags = np.arange(-round(_MAX_LAG_S * _GRID_HZ), round(_MAX_LAG_S * _GRID_HZ) + 1)
    products, energies = np.zeros(len(lags)), np.zeros(2)
    for window in windows:
        curves = _curves(window)
        if curves is None:
            continue
        moves, sounds = (curve - curve.mean() for curve in curves)
        energies += (moves**2).sum(), (sounds**2).sum()
        products += [_product(moves, sounds, lag) for lag in lags.tolist()]
    scale = math.sqrt(float(energies.prod()))
    if not scale > 0:
        return None
    correlation = products / scale
    best = int(correlation.argmax())
    if best in (0, len(lags) - 1):
        return float(lags[best] / _GRID_HZ), 0.0
    near = np.abs(lags - lags[best]) <= round(_PEAK_WIDTH_S * _GRID_HZ)
    other = max(0.0, float(correlation[~near].max()))
    return float(lags[best] / _GRID_HZ), min(1.0, max(0.0, float(correlation[best]) - other))


def _product(moves: np.ndarray, sounds: np.ndarray, lag: int) -> float:
    """Sum over ``moves[n] * sounds[n + lag]``, as if both had the whole length."""
    first, last = max(0, -lag), min(len(moves), len(sounds) - lag)
    return float(moves[first:last] @ sounds[first + lag : last + lag]) * len(moves) / max(1, last - first)


def _curves(window: Window) -> tuple[np.ndarray, np.ndarray] | None:
    """Change of picture and rise of sound on one grid of `_GRID_HZ`, smoothed alike; None where one has nothing."""
    if len(window.video) < 2 or not len(window.audio) or float(window.audio.abs().max()) < SILENCE_PEAK:
        return None
    end_s = min(len(window.video) / window.fps, len(window.audio) / window.sample_rate)
    if end_s < 2 * _MAX_LAG_S:
        return None
    change = _change(window.video)
    if float(change.max()) < STILL_CHANGE:
        return None
    wave, lengths = _DETECTOR.prepare(window.audio[None], window.sample_rate)
    strength = _DETECTOR.strength(wave, lengths)[0][0].numpy()
    times = np.arange(0.0, end_s, 1 / _GRID_HZ)
    # what differs in frame n has moved since frame n - 1: on the average half a frame before n is shown
    moves = np.interp(times, (np.arange(len(change)) - 0.5) / window.fps, change.numpy())
    rises_at = np.arange(len(strength)) * _DETECTOR.hop / _DETECTOR.sample_rate - _DETECTOR_DELAY_S
    sounds = np.interp(times, rises_at, strength)
    width = max(1.0 / window.fps, _SMOOTHING_S) * _GRID_HZ
    kernel = np.hanning(2 * round(width) + 1)
    sounds = np.convolve(sounds, kernel / kernel.sum(), mode="same")
    return None if sounds.max() < _LEAST_RISE_DB else (moves, sounds)


def _change(video: Tensor) -> Tensor:
    """`motion_curve` of uint8 frames ``[T, 3, H, W]``: float32 ``[T]``."""
    curve: Tensor = motion_curve(video[None].float() / 255)[0]
    return curve
