"""Decode the frames that are on screen at given times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

# Time stamps in whole milliseconds (Matroska, WebM) may lie half a tick after the true time of their frame.
_MAX_ROUNDING_S = 0.0006
_UNSPECIFIED_MATRIX = 2

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
WHITE: Color = (255, 255, 255)


class ClipTooShortError(Exception):
    """The stream ends at ``end_s`` although a later frame was asked for."""

    def __init__(self, end_s: float) -> None:
        super().__init__(f"the picture ends at {end_s:.3f} s")
        self.end_s = end_s


class DamagedFrameError(Exception):
    """The decoder could only guess the frame at ``time_s``."""

    def __init__(self, time_s: float) -> None:
        super().__init__(f"the frame at {time_s:.3f} s is damaged")


def decode_frames(
    container: InputContainer,
    stream: VideoStream,
    origin_s: float,
    times_s: np.ndarray,
    height: int,
    width: int,
    background: Color = WHITE,
) -> np.ndarray:
    """Frames on screen at ``times_s``: for each time the latest frame whose time stamp is not after it.

    Args:
        container: the open file.
        stream: its video stream.
        origin_s: time stamp, in seconds, that counts as 0 s.
        times_s: ascending times ``[T]`` in seconds after the origin.
        height: rows of the result; frames are scaled to cover ``height x width`` and cropped about the centre.
        width: columns of the result.
        background: what is seen behind a transparent picture.

    Returns:
        uint8 RGB ``[T, 3, H, W]``.

    Raises:
        ClipTooShortError: the last time lies more than half a frame step after the end of the last frame.
        DamagedFrameError: a frame that is needed was marked as damaged by the decoder.
        av.error.FFmpegError: the data cannot be decoded.
    """
    slack = min(0.5 * float(stream.time_base or 0), _MAX_ROUNDING_S) + 1e-6
    scaler = _CoverCrop(height, width, float(stream.codec_context.sample_aspect_ratio or 1), background)
    out = np.empty((len(times_s), 3, height, width), np.uint8)
    filled = 0
    held: _Timed | None = None
    for timed in _frames_from(container, stream, origin_s, float(times_s[0]) + slack):
        if held is not None:
            # times before this frame's stamp are shown by the one before
            upto = int(np.searchsorted(times_s, timed.time_s - slack, side="left"))
            if upto > filled:
                scaler.write(held, out[filled:upto])
                filled = upto
            if filled == len(times_s):
                return out
        held = timed
    if held is None:
        raise ClipTooShortError(0.0)
    step_s = float(times_s[1] - times_s[0]) if len(times_s) > 1 else held.duration_s
    end_s = held.time_s + held.duration_s
    # within half a step the last frame counts as still on screen
    if times_s[-1] >= end_s + 0.5 * step_s:
        raise ClipTooShortError(end_s)
    scaler.write(held, out[filled:])
    return out


@dataclass(frozen=True)
class _Timed:
    frame: VideoFrame
    time_s: float
    duration_s: float


def _frames_from(container: InputContainer, stream: VideoStream, origin_s: float, first_s: float) -> Iterator[_Timed]:
    """Frames in order of display, beginning with (at the latest) the one on screen at ``first_s``."""
    seeked = first_s > 0.01
    if seeked:
        target = int((first_s + origin_s) / float(stream.time_base or 1))
        container.seek(target, stream=stream, backward=True)
    frames = _timed_frames(container, stream, origin_s)
    first = next(frames, None)
    if seeked and (first is None or first.time_s > first_s):
        # Some formats (MPEG-TS) seek by guessing and may land too late.
        container.seek(0, backward=True)
        frames = _timed_frames(container, stream, origin_s)
        first = next(frames, None)
    if first is not None:
        yield first
        yield from frames


def _timed_frames(container: InputContainer, stream: VideoStream, origin_s: float) -> Iterator[_Timed]:
    usual_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    base = float(stream.time_base or 0)
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        yield _Timed(frame, frame.pts * base - origin_s, frame.duration * base if frame.duration else usual_s)


class _CoverCrop:
    """Scales frames until they cover the wanted size and cuts out the centre."""

    def __init__(self, height: int, width: int, pixel_aspect: float, background: Color) -> None:
        self.height, self.width, self.pixel_aspect = height, width, pixel_aspect
        self.background = background
        # one scaler for all frames: its tables are made once
        self._reformatter = VideoReformatter()

    def write(self, timed: _Timed, out: np.ndarray) -> None:
        """Writes the frame into every row of ``out`` ``[n, 3, H, W]``."""
        frame = timed.frame
        if frame.is_corrupt:
            raise DamagedFrameError(timed.time_s)
        turns = round(frame.rotation / 90) % 4  # counter-clockwise quarter turns to upright
        # before scaling: the colours of what is not seen must not bleed into what is
        frame = _over(frame, self.background)
        height, width = (self.width, self.height) if turns % 2 else (self.height, self.width)
        shown_width = frame.width * self.pixel_aspect
        scale = max(height / frame.height, width / shown_width)
        rows, columns = max(height, round(frame.height * scale)), max(width, round(shown_width * scale))
        planar = self._reformatter.reformat(
            frame,
            width=columns,
            height=rows,
            format="gbrp",  # planes, as the result wants them
            # Untagged HD is BT.709 by convention, untagged SD is BT.601 (swscale's own default).
            src_colorspace=Colorspace.ITU709
            if frame.colorspace == _UNSPECIFIED_MATRIX and frame.height >= 720
            else None,
            # Without exact rounding unscaled pictures come out more than one level too dark.
            interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND,
            threads=1,  # swscale's threads are started anew for every frame: many times slower
        )
        top, left = (rows - height) // 2, (columns - width) // 2
        planes: Any = planar.planes  # their buffer protocol is missing from the type stubs; order green, blue, red
        for channel, plane in zip((1, 2, 0), planes, strict=True):
            # rows may be padded to the scaler's alignment, hence the cut
            image = np.frombuffer(plane, np.uint8).reshape(rows, -1)[top : top + height, left : left + width]
            out[:, channel] = np.rot90(image, turns) if turns else image


def _over(frame: VideoFrame, background: Color) -> VideoFrame:
    """The frame laid over a colour; as it is where nothing of it is transparent."""
    if not (frame.format.has_palette or any(component.is_alpha for component in frame.format.components)):
        return frame
    pixels = frame.to_ndarray(format="rgba").astype(np.float32)  # [H, W, 4]
    alpha = pixels[..., 3:] / 255
    if alpha.min() == 1:
        return frame
    seen = alpha * pixels[..., :3] + (1 - alpha) * np.array(background, np.float32)
    return VideoFrame.from_ndarray(np.rint(seen).astype(np.uint8), format="rgb24")
