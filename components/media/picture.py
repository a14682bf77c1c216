"""From a decoded frame to the upright RGB picture of a wanted size."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

_UNSPECIFIED_MATRIX = 2

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
WHITE: Color = (255, 255, 255)


class CoverCrop:
    """Scales frames until they cover the wanted size and cuts out the centre.

    Args:
        height: rows of the result.
        width: columns of the result.
        pixel_aspect: width of a stored pixel divided by its height.
        background: what is seen behind a transparent picture.
    """

    def __init__(self, height: int, width: int, pixel_aspect: float, background: Color) -> None:
        self.height, self.width, self.pixel_aspect = height, width, pixel_aspect
        self.background = background
        # one scaler for all frames: its tables are made once
        self._reformatter = VideoReformatter()

    def write(self, frame: VideoFrame, out: np.ndarray) -> None:
        """Writes the frame into every row of ``out``, uint8 ``[n, 3, H, W]``."""
        swap, flip_rows, flip_columns = _orientation(frame)
        # before scaling: the colours of what is not seen must not bleed into what is
        frame = _over(frame, self.background)
        height, width = (self.width, self.height) if swap else (self.height, self.width)
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
            image = image.T if swap else image
            out[:, channel] = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def shown_size(frame: VideoFrame, pixel_aspect: float) -> tuple[float, float]:
    """Height and width of a picture as it is seen: upright, with square pixels."""
    swap, _, _ = _orientation(frame)
    size = float(frame.height), frame.width * pixel_aspect
    return (size[1], size[0]) if swap else size


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """What makes the frame upright: rows and columns swapped, then the rows and then the columns reversed.

    As the display matrix says: quarter turns and mirrors alone. Of a picture with EXIF data only the turn is known.
    """
    try:
        side_data: Any = frame.side_data  # the type stubs take names as keys alone
        matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # PyAV 18 refuses to list side data of kinds it has no name for, as EXIF
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        return turns % 2 == 1, turns in (1, 2), turns in (2, 3)
    if matrix is None:
        return False, False, False
    # a point (x, y) is shown at (a x + c y, b x + d y)
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if abs(b) > abs(a):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


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
