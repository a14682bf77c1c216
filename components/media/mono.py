"""From a decoded block of sound to one channel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout

# ITU-R BS.775's shares in the two channels of a stereo mix-down, of which the mean is taken; the bass effects are left
# out, as there. Surround channels of any place count alike.
_FRONT, _CENTRE, _SURROUND = 0.5, 0.5**0.5, 0.5**1.5
_SHARES = {"FL": _FRONT, "FR": _FRONT, "DL": _FRONT, "DR": _FRONT, "FC": _CENTRE, "LFE": 0.0, "LFE2": 0.0}
_SHARES |= dict.fromkeys(("BL", "BR", "BC", "SL", "SR", "FLC", "FRC", "TFL", "TFC", "TFR", "TBL", "TBC"), _SURROUND)
_SHARES |= dict.fromkeys(("TBR", "TC", "WL", "WR", "SDL", "SDR", "TSL", "TSR"), _SURROUND)
# where nothing says which channel is where
_USUAL_LAYOUTS = {5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def to_mono(frame: AudioFrame) -> np.ndarray:
    """The channels mixed by ITU-R BS.775, full scale 1: float32 ``[S]``.

    Two channels are averaged, a centre channel is heard at full level with the others at their levels beside it.
    Where their places are not said they are those of 5.0 to 7.1; three or four are averaged then.
    """
    array = frame.to_ndarray()
    channels = frame.layout.nb_channels
    # interleaved samples, as PCM has them
    if not frame.format.is_planar and channels > 1:
        array = array.reshape(-1, channels).T
    if array.dtype == np.uint8:  # unsigned 8-bit: silence is 128
        array = (array.astype(np.float32) - 128) / 128
    elif np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float32) / (1 << (8 * array.dtype.itemsize - 1))
    if channels == 1:
        mono = array[0]
    elif channels == 2:
        mono = array.mean(axis=0, dtype=np.float32)
    else:
        mono = _weights(_places(frame.layout)) @ array.astype(np.float32)
    return np.ascontiguousarray(mono, np.float32)


def _places(layout: AudioLayout) -> tuple[str, ...]:
    names = tuple(channel.name for channel in layout.channels)
    if all(name in _SHARES for name in names) or len(names) not in _USUAL_LAYOUTS:
        return names
    return tuple(channel.name for channel in AudioLayout(_USUAL_LAYOUTS[len(names)]).channels)


@lru_cache(maxsize=16)
def _weights(names: tuple[str, ...]) -> np.ndarray:
    """Share of each channel: float32 ``[C]``."""
    shares = np.array([_SHARES.get(name, np.nan) for name in names], np.float32)
    if np.isnan(shares).any() or not shares.any():
        return np.full(len(names), 1 / len(names), np.float32)
    return shares * np.float32(2**0.5) if "FC" in names else shares
