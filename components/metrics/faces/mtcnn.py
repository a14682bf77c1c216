"""MTCNN: the faces of whole pictures, by three small networks, each of which judges what the one before has left.

Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks" (2016,
arXiv 1604.02878), with the rounding and the order of steps of facenet-pytorch, whose weights these are.

Legend for shapes: T frames of a clip, H x W pixels, n candidates ``(left, top, right, bottom)`` in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.faces.boxes import moved, over_smaller, squares, strongest
from components.metrics.faces.mtcnn_nets import OutputNet, ProposalNet, RefineNet
from components.metrics.faces.pieces import SummedPictures
from components.metrics.syncnet.tracking import FaceDetector
from components.weights.file import open_weights_file
from components.weights.fit import copy_weights
from components.weights.identity import sha256_of_tensors
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, builds_shapes_only, resolve_folder
from components.weights.whole_folder import whole_folder

SHIPPED = "configs/weights/mtcnn"
NETS = ("pnet", "rnet", "onet")
_ENDINGS = (".safetensors", ".pt")
_CELL, _STRIDE = 12, 2
"""P-Net's piece of a picture, and how far one is from the next."""
_AT_ONCE = 512
"""Candidates cut out and judged together; bounds the memory."""


@dataclass(frozen=True)
class _Candidates:
    """What may be a face: ``frames`` int64 ``[n]``, ``boxes`` ``[n, 4]``, ``scores`` ``[n]``, by falling score."""

    frames: Tensor
    boxes: Tensor
    scores: Tensor

    def at(self, places: Tensor) -> _Candidates:
        """Some of them, by place or by mask."""
        return _Candidates(self.frames[places], self.boxes[places], self.scores[places])


@names_files(source=None)
class MTCNN(FaceDetector):
    """Finds faces of any place and size in whole scenes.

    Pictures are looked at in 8 bits a channel, as files hold them. A box reaches from the forehead to the chin. Faces
    are looked for from about ``min_face_size`` pixels on. The time grows with its inverse square, and faces that the
    tracker passes over need not be found: half of the tracker's ``min_face_size`` is plenty.

    Args:
        source: folder with ``pnet``, ``rnet`` and ``onet``, as ``.safetensors`` or as facenet-pytorch's ``.pt`` (found
            by `components.weights.pretrained.resolve_folder`); by default the weights that ship.
        min_face_size: smallest face looked for, in pixels.
        thresholds: how sure each of the three networks must be, from 0 to 1.
        scale_factor: from one size of the picture to the next, between 0 and 1.
        frames_at_once: frames looked at together; bounds the memory.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if a number is out of range, or weights are missing, damaged or do not fit.
    """

    def __init__(
        self,
        source: str | Path = SHIPPED,
        min_face_size: float = 40.0,
        thresholds: Sequence[float] = (0.6, 0.7, 0.7),
        scale_factor: float = 0.709,
        frames_at_once: int = 8,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        if not min_face_size > 0:
            raise InputError(f"MTCNN.min_face_size is {min_face_size}; it must be more than 0 pixels")
        if len(thresholds) != len(NETS) or not all(0 <= threshold <= 1 for threshold in thresholds):
            raise InputError(f"MTCNN.thresholds is {list(thresholds)}; give three numbers from 0 to 1, one a network")
        if not 0 < scale_factor < 1:
            raise InputError(f"MTCNN.scale_factor is {scale_factor}; it must lie between 0 and 1")
        if frames_at_once < 1:
            raise InputError(f"MTCNN.frames_at_once is {frames_at_once}; it must be at least 1")
        self.min_face_size, self.scale_factor = min_face_size, scale_factor
        self.thresholds, self.frames_at_once = tuple(thresholds), frames_at_once
        self.pnet, self.rnet, self.onet = ProposalNet(), RefineNet(), OutputNet()
        self._load(source, sha256)
        self.eval()

    def _load(self, source: str | Path, sha256: Sha256) -> None:
        folder = resolve_folder(source, sha256=sha256)
        if builds_shapes_only():
            return
        files = [_file_of(folder, name) for name in NETS]
        for name, file in zip(NETS, files, strict=True):
            copy_weights(getattr(self, name), open_weights_file(file))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the three networks as ``.safetensors``; the folder appears, or changes, as a whole."""
        with whole_folder(Path(folder)) as partial:
            for name in NETS:
                net: nn.Module = getattr(self, name)
                weights = {key: tensor.detach().cpu().contiguous() for key, tensor in net.state_dict().items()}
                (partial / f"{name}.safetensors").write_bytes(save(weights))

    def identity(self) -> dict[str, object]:
        """Settings and weights that boxes depend on."""
        return {
            # of the numbers, not of the files: those come in two kinds
            "weights_sha256": sha256_of_tensors(self.state_dict()),
            "min_face_size": self.min_face_size,
            "thresholds": list(self.thresholds),
            "scale_factor": self.scale_factor,
        }

    @torch.no_grad()
    def detect(self, frames: Tensor) -> list[Tensor]:
        """The faces of ``[T, 3, H, W]`` in [0, 1]: T tensors float32 ``[n, 4]``, the surest face first."""
        device = next(self.parameters()).device
        found: list[Tensor] = []
        with torch.autocast(device.type, enabled=False):
            for some in frames.split(self.frames_at_once):
                pictures = (some.to(device).float().clamp(0, 1) * 255).round().to(torch.uint8)
                faces = self._faces(SummedPictures(pictures))
                found += [faces.boxes[faces.frames == frame] for frame in range(len(some))]
        return found

    def _faces(self, pictures: SummedPictures) -> _Candidates:
        candidates = self._proposed(pictures)
        judged, offsets = self._judged(self.rnet, pictures, candidates, self.thresholds[1])
        kept = strongest(judged.boxes, judged.scores, judged.frames, 0.7)
        refined = judged.at(kept)
        candidates = _Candidates(refined.frames, squares(moved(refined.boxes, offsets[kept], 1)), refined.scores)
        judged, offsets = self._judged(self.onet, pictures, candidates, self.thresholds[2])
        faces = _Candidates(judged.frames, moved(judged.boxes, offsets, 1), judged.scores)
        faces = faces.at(strongest(faces.boxes, faces.scores, faces.frames, 0.7, over_smaller))
        # an offset may turn a box inside out; nobody could cut that out
        return faces.at((faces.boxes[:, 2:] > faces.boxes[:, :2]).all(dim=1))

    def _proposed(self, pictures: SummedPictures) -> _Candidates:
        """P-Net's squares, of pictures from the largest size to the smallest that holds a piece."""
        parts, offsets = [], []
        for scale in self._scales(pictures):
            candidates, shifts = self._proposed_at(pictures, scale)
            kept = strongest(candidates.boxes, candidates.scores, candidates.frames, 0.5)
            parts.append(candidates.at(kept))
            offsets.append(shifts[kept])
        if not parts:
            device = next(self.parameters()).device
            nothing = torch.zeros(0, device=device)
            return _Candidates(nothing.long(), nothing.view(0, 4), nothing)
        every = _Candidates(
            torch.cat([part.frames for part in parts]),
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
        )
        kept = strongest(every.boxes, every.scores, every.frames, 0.7)
        every = every.at(kept)
        return _Candidates(every.frames, squares(moved(every.boxes, torch.cat(offsets)[kept], 0)), every.scores)

    def _scales(self, pictures: SummedPictures) -> list[float]:
        """Sizes of the picture at which a face is as large as a piece, from ``min_face_size`` up."""
        scale, scales = _CELL / self.min_face_size, []
        side = min(pictures.height, pictures.width) * scale
        while side >= _CELL:
            scales.append(scale)
            scale, side = scale * self.scale_factor, side * self.scale_factor
        return scales

    def _proposed_at(self, pictures: SummedPictures, scale: float) -> tuple[_Candidates, Tensor]:
        """What P-Net takes for faces at one scale, and the offsets ``[n, 4]`` of their boxes."""
        size = int(pictures.height * scale + 1), int(pictures.width * scale + 1)
        probability, offsets = self.pnet(_normalised(pictures.whole(*size)))
        frame, row, column = (probability >= self.thresholds[0]).nonzero(as_tuple=True)
        corner = _STRIDE * torch.stack([column, row], dim=1).float()
        boxes = torch.cat([(corner + 1) / scale, (corner + _CELL) / scale], dim=1).floor()
        found = _Candidates(frame, boxes, probability[frame, row, column])
        return found, offsets[frame, :, row, column]

    def _judged(
        self, net: RefineNet | OutputNet, pictures: SummedPictures, given: _Candidates, threshold: float
    ) -> tuple[_Candidates, Tensor]:
        """The candidates that ``net`` takes for faces, with its scores, and the offsets ``[n, 4]`` of their boxes."""
        pixels, inside = _pixels(given.boxes, pictures)
        given, pixels = given.at(inside), pixels[inside]
        side = net.image_size
        scores, offsets = [given.scores[:0]], [given.boxes[:0]]
        for frames, boxes in zip(given.frames.split(_AT_ONCE), pixels.split(_AT_ONCE), strict=True):
            if len(frames):
                probability, shifts = net(_normalised(pictures.cut(frames, boxes, side, side)))
                scores.append(probability)
                offsets.append(shifts)
        judged = _Candidates(given.frames, given.boxes, torch.cat(scores))
        passed = judged.scores > threshold
        return judged.at(passed), torch.cat(offsets)[passed]


def _pixels(boxes: Tensor, pictures: SummedPictures) -> tuple[Tensor, Tensor]:
    """What is cut out for ``[n, 4]``, int64 ``[n, 4]`` within the picture, and which hold a pixel at all ``[n]``.

    Edges are counted from 1 and the last one belongs to the box, as in the code the networks were trained with.
    """
    whole = boxes.trunc().long()
    begin = whole[:, :2].clamp(min=1) - 1
    end = torch.minimum(whole[:, 2:], whole.new_tensor([pictures.width, pictures.height]))
    return torch.cat([begin, end], dim=1), (end > begin).all(dim=1)


def _normalised(pictures: Tensor) -> Tensor:
    """0..255 to about -1..1."""
    return (pictures - 127.5) * 0.0078125


def _file_of(folder: Path, name: str) -> Path:
    for ending in _ENDINGS:
        if (file := folder / f"{name}{ending}").is_file():
            return file
    raise InputError(
        f"'{folder}' has no {name}.safetensors or {name}.pt; MTCNN needs {', '.join(NETS)}: those of facenet-pytorch "
        f"(MIT; facenet_pytorch/data in its wheel), or leave source out for '{SHIPPED}', which ships"
    )
