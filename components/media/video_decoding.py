"""Decode the frames that are on screen at given times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from components.media.opening import UnusableMediaError
from components.media.picture import WHITE, Color, CoverCrop, shown_size
from components.media.track import LandedLateError, Track

# Time stamps in whole milliseconds (Matroska, WebM) may lie half a tick after the true time of their frame.
_MAX_ROUNDING_S = 0.0006
# MPEG program streams (VOB) stamp a frame now and then: for so long after a seek the time stamps are guesses.
_SETTLING_S = {"mpeg": 1.0}
_USUAL_FPS = 25  # where nothing says how long a frame is shown, as FFmpeg has it


class ClipTooShortError(Exception):
    """The stream ends at ``end_s`` although a later frame was asked for."""

    def __init__(self, end_s: float) -> None:
        super().__init__(f"the picture ends at {end_s:.3f} s")
        self.end_s = end_s


def decode_frames(
    track: Track[VideoStream],
    origin_s: float,
    times_s: np.ndarray,
    height: int,
    width: int,
    background: Color = WHITE,
) -> np.ndarray:
    """Frames on screen at ``times_s``: for each time the latest frame whose time stamp is not after it.

    Args:
        track: the picture.
        origin_s: time stamp, in seconds, that counts as 0 s.
        times_s: ascending times ``[T]`` in seconds after the origin.
        height: rows of the result; frames are scaled to cover ``height x width`` and cropped about the centre.
        width: columns of the result.
        background: what is seen behind a transparent picture.

    Returns:
        uint8 RGB ``[T, 3, H, W]``.

    Raises:
        ClipTooShortError: the last time lies more than half a frame step after the end of the last frame.
        UnusableMediaError: also decoded from the file's beginning, a frame that is needed is marked as damaged.
        av.error.FFmpegError: also from the file's beginning, the data cannot be decoded.
    """
    scaler = CoverCrop(height, width, float(track.stream.sample_aspect_ratio or 1), background)
    slack = min(0.5 * track.base_s, _MAX_ROUNDING_S) + 1e-6
    for from_begin in track.approaches(float(times_s[0]) + slack + origin_s):
        try:
            return _shown(_timed_frames(track, origin_s, from_begin), times_s, slack, scaler, from_begin)
        except (LandedLateError, UnusableMediaError, av.error.FFmpegError):
            # after a seek a decoder may lack what it needs: that alone is no damage
            if from_begin:
                raise
    raise AssertionError("the last approach returns or raises")


def first_shown_size(track: Track[VideoStream], origin_s: float) -> tuple[float, float]:
    """Height and width of the first frame as it is seen, which only the frame itself says (turns, mirrors).

    Raises:
        ClipTooShortError: there is no frame.
        av.error.FFmpegError: the data cannot be decoded.
    """
    for from_begin in track.approaches(origin_s):
        if (timed := next(_timed_frames(track, origin_s, from_begin), None)) is not None:
            return shown_size(timed.frame, float(track.stream.sample_aspect_ratio or 1))
    raise ClipTooShortError(0.0)


@dataclass(frozen=True)
class _Timed:
    frame: VideoFrame
    time_s: float
    duration_s: float
    fault: Exception | None
    ended_by: Exception | None = None


def _shown(
    frames: Iterator[_Timed], times_s: np.ndarray, slack: float, scaler: CoverCrop, from_begin: bool
) -> np.ndarray:
    out = np.empty((len(times_s), 3, scaler.height, scaler.width), np.uint8)
    filled = 0
    held: _Timed | None = None
    for timed in frames:
        if held is not None:
            # times before this frame's stamp are shown by the one before
            upto = int(np.searchsorted(times_s, timed.time_s - slack, side="left"))
            if upto > filled:
                _write(scaler, held, out[filled:upto])
                filled = upto
            if filled == len(times_s):
                return out
        elif not from_begin and timed.time_s > times_s[0] + slack:
            raise LandedLateError
        held = timed
    if held is None:
        raise ClipTooShortError(0.0) if from_begin else LandedLateError
    step_s = float(times_s[1] - times_s[0]) if len(times_s) > 1 else held.duration_s
    end_s = held.time_s + held.duration_s
    # within half a step the last frame counts as still on screen
    if times_s[-1] >= end_s + 0.5 * step_s:
        raise held.fault or held.ended_by or ClipTooShortError(end_s)
    _write(scaler, held, out[filled:])
    return out


def _write(scaler: CoverCrop, timed: _Timed, out: np.ndarray) -> None:
    if timed.fault is not None:
        raise timed.fault
    scaler.write(timed.frame, out)


def _timed_frames(track: Track[VideoStream], origin_s: float, from_begin: bool) -> Iterator[_Timed]:
    """Frames in order of display, after a seek from the first on that needs nothing from before the place."""
    stream, base_s = track.stream, track.base_s
    usual_s = float(1 / (stream.average_rate or _USUAL_FPS))
    # streams without container have no time stamps: their frames are counted
    next_s: float | None = track.begin_s if from_begin else None
    first_s = -np.inf if from_begin else np.inf
    last: _Timed | None = None
    error: av.error.FFmpegError | None = None
    for packet in track.packets():
        packet_s = _time_s(packet, base_s)
        if packet_s is not None and not packet.size:
            # an empty packet (Theora, AVI) shows the frame before once more
            if last is not None:
                end_s = packet_s + (packet.duration * base_s if packet.duration else usual_s) - origin_s
                last = replace(last, duration_s=max(last.duration_s, end_s - last.time_s))
            continue
        if first_s == np.inf and packet.is_keyframe:
            # what is shown before the key frame (open groups of pictures) refers to frames that were not read
            settling_s = _SETTLING_S.get(track.file.container.format.name, 0.0)
            first_s = packet_s + settling_s if packet_s is not None else -np.inf
        try:
            frames = packet.decode()
        except av.error.FFmpegError as found:
            error = found
            continue
        for frame in frames:
            time_s = frame.pts * base_s if frame.pts is not None else next_s
            if time_s is None:
                continue
            duration_s = frame.duration * base_s if frame.duration else usual_s
            next_s = time_s + duration_s
            error = None if frame.key_frame else error
            if time_s < first_s - 1e-6:
                continue
            fault = UnusableMediaError(f"the frame at {time_s - origin_s:.3f} s is damaged")
            last = _Timed(frame, time_s - origin_s, duration_s, error or (fault if frame.is_corrupt else None))
            yield last
    if last is not None:
        end_s = track.end_s - origin_s if track.shows_last_frame_on else 0.0
        # the same frame again: only now it is known for how long it was shown on, and what ended the picture
        yield replace(last, duration_s=max(last.duration_s, end_s - last.time_s), ended_by=error)
    elif error is not None:
        raise error


def _time_s(packet: Packet[VideoStream], base_s: float) -> float | None:
    ticks = packet.pts if packet.pts is not None else packet.dts
    return None if ticks is None else ticks * base_s
