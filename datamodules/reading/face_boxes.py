"""Where the face is: what a manifest's column ``face_boxes`` says, and what of it belongs to a clip.

A box is ``[left, top, right, bottom]`` in fractions of the recording's picture as it is seen, from 0 to 1: then it does
not matter at what size the picture is read. A row says one box, for a face that stays where it is, or a list with one
box for each frame of the recording, from its first, and null where there is no face.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.media.clock import ClipShape

Box = tuple[float, float, float, float]
FaceBoxes = tuple[Box | None, ...]
"""One box that holds at all times, or one for each frame of the recording."""

_FORM = "[left, top, right, bottom] in fractions of the picture, left < right and top < bottom"
_SPARE_FRAMES = 2
"""Frames that a recording may have beyond its boxes: programs disagree on the last one."""


def read_face_boxes(value: Any, error: Callable[[str], InputError]) -> FaceBoxes | None:
    """What a row says; CSV holds it as JSON.

    Args:
        value: the field, None where there is none.
        error: makes the error of the row from what is wrong with it.

    Raises:
        InputError: it is neither a box nor a list of boxes.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise error(f"has {value[:60]!r} as face_boxes, which is no JSON; write a list of boxes {_FORM}") from None
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise error(f"has {str(value)[:60]} as face_boxes; it must be a box {_FORM}, or a list with one for each frame")
    if not any(item is None or isinstance(item, list) for item in value):
        return (_box(value, "face_boxes", error),)
    return tuple(
        None if item is None else _box(item, f"face_boxes of frame {frame}", error) for frame, item in enumerate(value)
    )


def _box(value: Any, what: str, error: Callable[[str], InputError]) -> Box:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or any(isinstance(item, bool) or not isinstance(item, int | float) for item in numbers):
        raise error(f"has {str(value)[:60]} as {what}; a box is {_FORM}")
    left, top, right, bottom = map(float, numbers)
    if not all(math.isfinite(number) and 0 <= number <= 1 for number in (left, top, right, bottom)):
        raise error(
            f"has {value} as {what}, which leaves 0 to 1: a box is {_FORM}; divide pixels by the picture's width and "
            "height, and cut it at the picture's edges"
        )
    if not (left < right and top < bottom):
        raise error(f"has {value} as {what}, which holds nothing; a box is {_FORM}")
    return left, top, right, bottom


def boxes_of_clip(
    boxes: FaceBoxes,
    name: str,
    start_s: float,
    num_frames: int,
    shape: ClipShape,
    fps: float,
    seen: tuple[float, float],
) -> Tensor:
    """Boxes of a clip's frames.

    Args:
        boxes: of the recording.
        name: of the recording, for errors.
        start_s: where in the recording the clip begins.
        num_frames: of the clip.
        shape: what clips look like; their picture is the centre of the recording's, scaled to cover them.
        fps: of the recording.
        seen: height and width of the recording's picture.

    Returns:
        float32 ``[num_frames, 4]`` in fractions of the clip's picture, NaN where no face is seen.

    Raises:
        InputError: there are fewer boxes than the recording has frames.
    """
    middle_s = start_s + (torch.arange(num_frames, dtype=torch.float64) + 0.5) / shape.fps
    index = (middle_s * fps).floor().long().clamp(min=0) if len(boxes) > 1 else torch.zeros(num_frames).long()
    if (last := int(index.max())) >= len(boxes) + _SPARE_FRAMES:
        raise InputError(
            f"{name} has {len(boxes)} face_boxes, but its clip reaches to frame {last} at {fps:g} fps; give one box "
            "for each frame, or one box for all"
        )
    nothing = (math.nan,) * 4
    every = torch.tensor([nothing if box is None else box for box in boxes], dtype=torch.float64)
    return _cropped(every[index.clamp(max=len(boxes) - 1)], shape, seen).float()


def _cropped(boxes: Tensor, shape: ClipShape, seen: tuple[float, float]) -> Tensor:
    """Fractions of the whole picture to those of the part that a clip shows (`components.media.picture.CoverCrop`)."""
    height, width = seen
    scale = max(shape.height / height, shape.width / width)
    shown = boxes.new_tensor([shape.width / (width * scale), shape.height / (height * scale)]).repeat(2)
    inside = ((boxes - (1 - shown) / 2) / shown).clamp(0, 1)
    out_of_sight = (inside[:, 2:] <= inside[:, :2]).any(dim=1, keepdim=True)
    return inside.masked_fill(out_of_sight, math.nan)
