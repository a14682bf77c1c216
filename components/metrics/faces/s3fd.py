"""S3FD: the face detector of SyncNet's public pipeline, for numbers beside published ones.

Legend for shapes: T frames of a clip, F frames at once, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from components.errors import InputError
from components.metrics.faces.boxes import strongest
from components.metrics.faces.s3fd_net import S3FDNet
from components.metrics.syncnet.tracking import FaceDetector
from components.weights.identity import identity_of
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, builds_shapes_only, find_file, load_safetensors

_MEAN_COLOUR = 123.0, 117.0, 104.0
"""Red, green, blue of the network's training pictures."""
_SMALLEST = 28
"""Pixels a side that five poolings leave one of."""
_OVERLAPS = 0.3, 0.1
"""The public pipeline drops what overlaps by more, twice: within the network, and behind it."""


@published("download sfd_face.pth of www.robots.ox.ac.uk/~vgg/software/lipsync, or take MTCNN, whose weights ship")
@names_files("source")
class S3FD(FaceDetector):
    """Finds faces with the weights and settings that published Sync-C and Sync-D were cut with.

    Pictures are looked at in 8 bits a channel, at a quarter of their size in either direction: faces below about 60
    pixels are hardly found.

    Args:
        source: ``sfd_face.pth``, from www.robots.ox.ac.uk/~vgg/software/lipsync (see its page for the terms).
        confidence: how sure the network must be, from 0 to 1; published: 0.9.
        scale: size at which pictures are looked at; published: 0.25.
        frames_at_once: frames looked at together; bounds the memory.
        sha256: digest of the file (see `components.weights.digests`).

    Raises:
        InputError: if a number is out of range, or the file is missing, damaged or does not fit.
    """

    def __init__(
        self,
        source: str | Path,
        confidence: float = 0.9,
        scale: float = 0.25,
        frames_at_once: int = 8,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        if not 0 < confidence < 1:
            raise InputError(f"S3FD.confidence is {confidence}; it must lie between 0 and 1")
        if not 0 < scale <= 1:
            raise InputError(f"S3FD.scale is {scale}; it must be above 0 and at most 1")
        if frames_at_once < 1:
            raise InputError(f"S3FD.frames_at_once is {frames_at_once}; it must be at least 1")
        self.confidence, self.scale, self.frames_at_once = confidence, scale, frames_at_once
        self.net = S3FDNet()
        file = find_file(source, sha256)
        if file is None and not builds_shapes_only():
            raise InputError(
                f"S3FD.source: weights file '{source}' does not exist; give sfd_face.pth of "
                "www.robots.ox.ac.uk/~vgg/software/lipsync, or take components.metrics.faces.mtcnn.MTCNN, whose "
                "weights ship"
            )
        if file is not None:
            load_safetensors(self.net, file, str(source))
        self.eval()

    def identity(self) -> dict[str, object]:
        """Settings and weights that boxes depend on."""
        return {"weights_sha256": identity_of(self.net).sha256, "confidence": self.confidence, "scale": self.scale}

    @torch.no_grad()
    def detect(self, frames: Tensor) -> list[Tensor]:
        """The faces of ``[T, 3, H, W]`` in [0, 1]: T tensors float32 ``[n, 4]``, the surest face first.

        Raises:
            InputError: if pictures are too small for the network.
        """
        device = next(self.parameters()).device
        found: list[Tensor] = []
        with torch.autocast(device.type, enabled=False):
            for some in frames.split(self.frames_at_once):
                found += self._faces((some.to(device).float().clamp(0, 1) * 255).round())
        return found

    def _faces(self, pictures: Tensor) -> list[Tensor]:
        """Faces in each of 8-bit pictures ``[F, 3, H, W]``."""
        height, width = pictures.shape[2:]
        seen = scaled(pictures, self.scale)
        if min(seen.shape[2:]) < _SMALLEST:
            raise InputError(
                f"S3FD looks at pictures of {width}x{height} at {seen.shape[3]}x{seen.shape[2]}, but needs "
                f"{_SMALLEST} pixels a side: raise its scale, {self.scale:g}, or take another detector"
            )
        scores, boxes = self.net(seen - seen.new_tensor(_MEAN_COLOUR)[:, None, None])
        frames, anchors = (scores > self.confidence).nonzero(as_tuple=True)
        scores, boxes = scores[frames, anchors], boxes[frames, anchors]
        for overlap in _OVERLAPS:
            kept = strongest(boxes, scores, frames, overlap)
            frames, scores, boxes = frames[kept], scores[kept], boxes[kept]
        boxes = boxes * boxes.new_tensor([width / seen.shape[3], height / seen.shape[2]] * 2)
        return [boxes[frames == frame] for frame in range(len(pictures))]


def scaled(pictures: Tensor, scale: float) -> Tensor:
    """8-bit pictures ``[F, 3, H, W]`` at another size: bilinear without low-pass, rounded to 8 bits.

    That of OpenCV, bit for bit at a quarter; at other scales a value may differ by 1.
    """
    for dim in (2, 3):
        side = pictures.shape[dim]
        # the middle of each new pixel in the old picture
        place = (torch.arange(max(1, round(side * scale)), dtype=torch.float64) + 0.5) / scale - 0.5
        first = place.floor()
        share = (place - first).to(pictures).view(-1, *(1,) * (3 - dim))
        near, far = (
            pictures.index_select(dim, index.clamp(0, side - 1).long().to(pictures.device))
            for index in (first, first + 1)
        )
        pictures = near * (1 - share) + far * share
    return (pictures + 0.5).floor()
