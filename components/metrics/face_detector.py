"""Where the faces are: the plug-in between a clip and SyncNet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class FaceDetector(nn.Module, ABC):
    """Finds faces in single frames; tracking and cropping are done by the scorer.

    A detector of your own derives from this class and is named in the configuration by its ``class_path``.
    """

    @abstractmethod
    def detect(self, frames: Tensor) -> Sequence[Tensor] | None:
        """The faces of one clip.

        Args:
            frames: ``[T, 3, H, W]`` RGB in [0, 1], consecutive frames of one shot.

        Returns:
            T tensors ``[n, 4]`` of boxes ``(left, top, right, bottom)`` in pixels, n = 0 where a frame has no face;
            or None where the picture as it stands is the face.
        """


class WholeFrame(FaceDetector):
    """The clip is a cropped talking head already: the picture as a whole is brought to SyncNet's size.

    Right for data sets of face crops (LRS, VoxCeleb, HDTF) and the procedural faces. A picture that is not square is
    squeezed, as the public pipeline does with such crops.
    """

    def detect(self, frames: Tensor) -> None:
        """None: there is nothing to look for."""
        return None
