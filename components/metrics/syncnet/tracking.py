"""Face boxes of single frames to the cropped faces SyncNet looks at.

Metrics specification, section 3: greedy tracks, linear interpolation of missing boxes, median-smoothed size and
centre, and a crop that reaches further down than up because it is about the mouth.

Legend for shapes: T frames, H x W pixels, n boxes ``(left, top, right, bottom)`` in pixels.

Where the faces are: the plug-in between a clip and SyncNet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.syncnet.input import resized
from components.weights.identity import sha256_of_tensors


class FaceDetector(nn.Module, ABC):
    """Finds faces in single frames; tracking and cropping are done by the scorer.

    A detector of your own derives from this class and is named in the configuration by its ``class_path``.
    """

    @abstractmethod
    def detect(self, frames: Tensor) -> Sequence[Tensor] | None:
        """The faces of one clip.

        Args:
            frames: ``[T, 3, H, W]`` RGB in [0, 1], consecutive frames.

        Returns:
            T tensors ``[n, 4]`` of boxes ``(left, top, right, bottom)`` in pixels, n = 0 where a frame has no face;
            or None where the picture as it stands is the face.
        """

    def locate(self, frames: Tensor, known: Tensor | None) -> Sequence[Tensor] | None:
        """As `detect`; ``known`` is ``[T, 4]`` where the data say where the face is, which most detectors pass over."""
        del known
        return self.detect(frames)

    @property
    def needs_known(self) -> bool:
        """Whether nothing can be found in clips of which the data do not say where the face is."""
        return False

    def identity(self) -> dict[str, object]:
        """What boxes depend on, as plain values: by default public settings, and the SHA-256 of the weights if any."""
        settings = {
            name: value for name, value in vars(self).items() if not name.startswith("_") and _is_setting(value)
        }
        settings.pop("training")
        weights = self.state_dict()
        return settings | ({"weights_sha256": sha256_of_tensors(weights)} if weights else {})


def _is_setting(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str)


class WholeFrame(FaceDetector):
    """The clip is a cropped talking head already: the picture as a whole is brought to SyncNet's size.

    Right for data sets of face crops (LRS, VoxCeleb, HDTF) and the procedural faces, and for nothing else: of a scene
    it makes a "face" of whatever is there, and even a still picture of noise then has a confidence near 1. Whole scenes
    need a detector, such as `components.metrics.faces.mtcnn.MTCNN`. A picture that is not square is squeezed, as the
    public pipeline does with such crops.
    """

    def detect(self, frames: Tensor) -> None:
        """None: there is nothing to look for."""
        return None


Box = Sequence[float]

_PADDING_VALUE = 110 / 255  # the public pipeline's grey


@dataclass(frozen=True)
class FaceTrack:
    """One face over consecutive frames.

    Attributes:
        first_frame: the frame it appears in.
        boxes: float64 ``[n, 4]``, one per frame from there on.
    """

    first_frame: int
    boxes: np.ndarray


@dataclass(frozen=True)
class Crop:
    """What is cut out of one frame.

    Attributes:
        padding: pixels added on all sides before cutting.
        top: first row in the padded picture.
        bottom: row behind the last.
        left: first column.
        right: column behind the last.
    """

    padding: int
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class FaceTracker:
    """Links boxes to faces and says what to cut out.

    Attributes:
        min_track: a track counts if it holds more boxes than this. The published pipeline has 100 (4 s), which
            leaves shorter generations without any face.
        min_face_size: and if its mean width or height is above this, in pixels.
        max_gap: frames a face may be missing within a track.
        min_overlap: intersection over union with the track's last box above which a box belongs to it.
        crop_scale: how much more than the box is cut out.
        smoothing: frames of the median filter over size and centre, odd.

    Raises:
        InputError: for an even filter, or tracks so short that the filter would see nothing but its own padding.
    """

    min_track: int = 25
    min_face_size: float = 100.0
    max_gap: int = 25
    min_overlap: float = 0.5
    crop_scale: float = 0.4
    smoothing: int = 13

    def __post_init__(self) -> None:
        if self.smoothing % 2 == 0:
            raise InputError(f"FaceTracker.smoothing is {self.smoothing}; a centred median needs an odd number")
        if self.min_track < self.smoothing // 2:
            raise InputError(
                f"FaceTracker.min_track is {self.min_track}; give at least {self.smoothing // 2}, half of smoothing"
            )

    def tracks(self, boxes: Sequence[Iterable[Box]]) -> list[FaceTrack]:
        """The faces of a shot.

        Args:
            boxes: for each frame, the boxes found in it, in the detector's order.
        """
        left = [[np.asarray(box, dtype=np.float64) for box in found] for found in boxes]
        found = []
        while linked := self._next(left):
            frames = np.array([frame for frame, _ in linked])
            corners = np.stack([box for _, box in linked])
            every = np.arange(frames[0], frames[-1] + 1)
            filled = np.stack([np.interp(every, frames, corners[:, edge]) for edge in range(4)], axis=1)
            size = max((filled[:, 2] - filled[:, 0]).mean(), (filled[:, 3] - filled[:, 1]).mean())
            if len(linked) > self.min_track and size > self.min_face_size:
                found.append(FaceTrack(int(frames[0]), filled))
        return found

    def _next(self, left: list[list[np.ndarray]]) -> list[tuple[int, np.ndarray]]:
        """Takes the boxes of one more track out of ``left``, in one pass over the frames.

        As in the published pipeline a taken box is removed while its frame is being read: the box behind it is passed
        over this time, and a later box of the same frame may still join.
        """
        linked: list[tuple[int, np.ndarray]] = []
        for frame, boxes in enumerate(left):
            index = 0
            while index < len(boxes):
                if linked and frame - linked[-1][0] > self.max_gap:
                    return linked
                if not linked or _overlap(boxes[index], linked[-1][1]) > self.min_overlap:
                    linked.append((frame, boxes.pop(index)))
                index += 1
        return linked

    def smoothed(self, track: FaceTrack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centre column, centre row and half side of the face in each frame, median-filtered: three ``[n]``."""
        left, top, right, bottom = track.boxes.T
        half_side = np.maximum(bottom - top, right - left) / 2
        column, row, side = (
            _median_filter(values, self.smoothing) for values in ((left + right) / 2, (top + bottom) / 2, half_side)
        )
        return column, row, side

    def crops(self, track: FaceTrack) -> list[Crop]:
        """What to cut out of each frame of a track."""
        scale = self.crop_scale
        found = []
        for x, y, side in zip(*self.smoothed(track), strict=True):
            padding = int(side * (1 + 2 * scale))
            column, row = x + padding, y + padding
            # further down than up: the mouth is what counts
            top, bottom = int(row - side), int(row + side * (1 + 2 * scale))
            left, right = int(column - side * (1 + scale)), int(column + side * (1 + scale))
            found.append(Crop(padding, top, bottom, left, right))
        return found

    def cut(self, frames: Tensor, track: FaceTrack, size: int) -> Tensor:
        """The face in each frame of the track.

        Args:
            frames: ``[T, 3, H, W]`` in [0, 1], the shot the boxes were found in.
            track: one of its faces.
            size: rows and columns of the result.

        Returns:
            ``[n, 3, size, size]``; what lies outside the picture is grey.
        """
        shown = frames[track.first_frame : track.first_frame + len(track.boxes)]
        return torch.cat(
            [resized(_cut_out(frame, crop)[None], size) for frame, crop in zip(shown, self.crops(track), strict=True)]
        )


def _cut_out(frame: Tensor, crop: Crop) -> Tensor:
    padded = F.pad(frame, (crop.padding,) * 4, value=_PADDING_VALUE)
    # a face half outside of the picture can reach beyond the padding too: the slice then simply ends there
    return padded[:, max(crop.top, 0) : crop.bottom, max(crop.left, 0) : crop.right]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    wide, tall = np.maximum(0.0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
    both = wide * tall
    return float(both / (areas - both)) if areas > both else 0.0


def _median_filter(values: np.ndarray, window: int) -> np.ndarray:
    """Medians over ``window`` values centred on each, with zeros outside."""
    medians: np.ndarray = np.median(sliding_window_view(np.pad(values, window // 2), window), axis=1)
    return medians
