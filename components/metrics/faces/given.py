"""Faces where the data say they are: boxes of the manifest in place of a detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.errors import InputError
from components.metrics.syncnet.tracking import FaceDetector


class GivenFaces(FaceDetector):
    """Takes the face of each frame from the data's ``face_boxes``; tracking and cropping are those of every detector.

    The boxes are the real clip's. Generated pictures are cut out at the same places, which is right where a model
    begins with the real first frame and the head stays about where it is; where heads move freely, find them.

    Args:
        otherwise: finds the faces of clips that come without boxes; None refuses such clips.
    """

    def __init__(self, otherwise: FaceDetector | None = None) -> None:
        super().__init__()
        self.otherwise = otherwise

    @property
    def needs_known(self) -> bool:
        """Whether every clip has to come with boxes."""
        return self.otherwise is None

    def detect(self, frames: Tensor) -> Sequence[Tensor] | None:
        """What ``otherwise`` finds.

        Raises:
            InputError: if there is none.
        """
        if self.otherwise is None:
            raise InputError(
                "GivenFaces finds no faces by itself; give face_boxes in the manifest, or set otherwise to a detector"
            )
        return self.otherwise.detect(frames)

    def locate(self, frames: Tensor, known: Tensor | None) -> Sequence[Tensor] | None:
        """The boxes ``known`` ``[T, 4]``, fractions of the picture, in pixels; NaN is a frame without a face."""
        if known is None:
            return self.detect(frames)
        height, width = frames.shape[-2:]
        pixels = known.to(frames.device) * torch.tensor([width, height, width, height], device=frames.device)
        return [box[None] if box.isfinite().all() else box.new_zeros(0, 4) for box in pixels]

    def identity(self) -> dict[str, object]:
        """That of the other detector, if there is one."""
        if self.otherwise is None:
            return {"otherwise": None}
        name = f"{type(self.otherwise).__module__}.{type(self.otherwise).__qualname__}"
        return {"otherwise": name, **self.otherwise.identity()}
