"""Features of FID and logits of the inception score: the classifier that both were defined with.

Legend for shapes: N pictures, T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import FeatureExtractor
from components.metrics.video.frames import frames_at, resized
from components.metrics.video.judge import FrozenJudge, at_least_one, needs_torchvision, positive_or_none
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.file import open_weights_file
from components.weights.fit import copy_weights
from components.weights.identity import identity_of, record_identity
from components.weights.named_files import names_files, of_no_consequence, published
from components.weights.pretrained import builds_shapes_only

if TYPE_CHECKING:
    from components.metrics.video.inception_net import FidInception

FILE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SMALLEST = 75
"""Pixels a side below which nothing is left after the poolings."""
Resizing = Literal["bilinear", "bicubic", "tensorflow"]
Output = Literal["pooled", "logits"]


@of_no_consequence("frames_at_once")
@published(f"download {FILE}")
@names_files("weights")
class InceptionFrames(FrozenJudge, FeatureExtractor):
    """What the Inception of December 2015 makes of each frame: FID's 2048 features, or 1008 logits.

    Published FIDs differ by how pictures are resized, and those of different resizing do not compare:

    - pytorch-fid: ``size: 299, resizing: bilinear, antialias: false`` (the defaults);
    - torch-fidelity: ``size: 299, resizing: tensorflow`` (its scale of grey levels is another one, too);
    - ASVA and Syncphony: ``size: 229, resizing: bicubic, antialias: true, skip_first: true``, at ``rate_hz: 6``. The
      size is no slip of ours. The first frame is left out because the model was given it.

    Metrics specification, section 8.

    Args:
        weights: ``pt_inception-2015-12-05-6726825d.pth`` (see `FILE`) or torch-fidelity's file of the same weights.
        size: side that pictures are squeezed to, whatever their aspect.
        resizing: ``bilinear``, ``bicubic``, or ``tensorflow`` for that library's old bilinear one.
        antialias: with a low-pass before it.
        skip_first: leaves the first frame out.
        rate_hz: frames per second that are taken; None takes every frame.
        output: ``pooled`` for FID and KID; ``logits`` for the inception score.
        frames_at_once: frames computed together; bounds the memory.
        sha256: digest that ``weights`` must have.

    Raises:
        InputError: if the file is missing, damaged or another network's, an argument is out of range, or torchvision
            is not installed.
    """

    def __init__(
        self,
        weights: str,
        size: int = 299,
        resizing: Resizing = "bilinear",
        antialias: bool = False,
        skip_first: bool = False,
        rate_hz: float | None = None,
        output: Output = "pooled",
        frames_at_once: int = 16,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        needs_torchvision("InceptionFrames")
        at_least_one(self, frames_at_once=frames_at_once)
        positive_or_none(self, rate_hz=rate_hz)
        if size < SMALLEST:
            raise InputError(f"InceptionFrames.size is {size}; the network needs pictures of {SMALLEST} pixels or more")
        if resizing not in get_args(Resizing) or output not in get_args(Output):
            raise InputError(
                f"InceptionFrames.resizing is '{resizing}' and output '{output}'; use one of "
                f"{', '.join(get_args(Resizing))}, and one of {', '.join(get_args(Output))}"
            )
        if antialias and resizing == "tensorflow":
            raise InputError("InceptionFrames.antialias is true, but resizing 'tensorflow' has none; set it to false")
        self.size, self.antialias, self.skip_first, self.rate_hz = size, antialias, skip_first, rate_hz
        self.resizing: Resizing = resizing
        self.output: Output = output
        self.frames_at_once = frames_at_once
        self.net = _network(weights, sha256)
        self.dim = self.net.fc.out_features if output == "logits" else self.net.fc.in_features
        self.eval()

    def features(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        """See `FeatureExtractor.features`; one feature per frame.

        Raises:
            InputError: if a clip has one frame and that is left out.
        """
        with self.judging():
            return [self._of_clip(generation, row) for row in rows]

    def _of_clip(self, generation: Generation, row: int) -> Tensor:
        every = self.frames_of(generation, row)
        taken = frames_at(len(every), generation.fps, self.rate_hz)[1 if self.skip_first else 0 :]
        if not taken:
            raise InputError(
                f"clip '{generation.reference.ids[row]}' has no frame beside its first; set "
                "InceptionFrames.skip_first to false, or give longer clips"
            )
        return torch.cat([self._of_frames(every[part]) for part in torch.tensor(taken).split(self.frames_at_once)])

    def _of_frames(self, frames: Tensor) -> Tensor:
        if self.resizing == "tensorflow":
            # in that protocol grey is 128 of 255, not the middle
            scaled = (255 * tensorflow_resized(frames, self.size) - 128) / 128
        else:
            scaled = 2 * resized(frames, self.size, self.size, self.resizing, self.antialias) - 1
        pooled: Tensor = self.net(scaled)
        return self.net.logits(pooled) if self.output == "logits" else pooled

    def identity(self) -> dict[str, object]:
        """Weights, output, and which frames are seen how."""
        return {
            "size": self.size,
            "resizing": self.resizing,
            "antialias": self.antialias,
            "skip_first": self.skip_first,
            "rate_hz": self.rate_hz,
            "output": self.output,
            "sha256": identity_of(self.net).sha256,
        }


def _network(weights: str, sha256: Sha256) -> FidInception:
    file = needed_file(weights, sha256, "InceptionFrames.weights", f"download {FILE}")
    from components.metrics.video.inception_net import FidInception

    net: FidInception = FidInception().requires_grad_(False).eval()
    if builds_shapes_only():
        return net
    opened = open_weights_file(file)
    for key, value in net.state_dict().items():
        # counters of training that files of older versions lack, and that nothing is computed from
        if key.endswith("num_batches_tracked"):
            opened.tensors.setdefault(key, value)
    copy_weights(net, opened)
    record_identity(net, weights, opened.files)
    return net


def tensorflow_resized(pictures: Tensor, size: int) -> Tensor:
    """``[N, 3, H, W]`` to ``[N, 3, size, size]`` as TensorFlow 1 did: bilinear from corner to corner of the pixels.

    Output pixel i lies at ``i * H / size``, not at the centres' ``(i + 1/2) * H / size - 1/2``.
    """
    for dim in (2, 3):
        side = pictures.shape[dim]
        place = torch.arange(size, device=pictures.device, dtype=torch.float32) * (side / size)
        low = place.floor().long()
        weight = (place - low).view(-1, 1) if dim == 2 else place - low
        high = (low + 1).clamp(max=side - 1)
        pictures = torch.lerp(pictures.index_select(dim, low), pictures.index_select(dim, high), weight)
    return pictures
