"""How every pixel moves from one frame to the next.

Legend for shapes: N pairs of pictures, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import InputError
from components.metrics.video.frames import padded_to_multiple
from components.metrics.video.judge import needs_torchvision
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, published
from components.weights.pretrained import load_safetensors

RAFT_FILE = "https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth"
_MULTIPLE, _SMALLEST = 8, 128
"""RAFT computes at an eighth of the size, and its pyramid of correlations needs 16 x 16 points there."""


class OpticalFlow(nn.Module, ABC):
    """Estimates the motion between pictures."""

    @abstractmethod
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] twice to ``[N, 2, H, W]``: pixels to the right and down from first to second."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that the flow depends on beside the pictures, as plain values."""


@published(f"download {RAFT_FILE}")
@names_files("weights")
class RaftFlow(OpticalFlow):
    """RAFT (Teed and Deng, 2020) from torchvision.

    Torchvision's file ``raft_large_C_T_V1`` holds the authors' own weights (``raft-things``), which VBench uses. Sides
    that are no multiples of 8 are padded by repeating edges; pictures below 128 pixels a side, which RAFT cannot take,
    are enlarged first and their flow is scaled back.

    Args:
        weights: the file (see `RAFT_FILE`); another set of weights of ``raft_large`` does as well.
        iterations: refinements of the flow; 20 as in VBench.
        sha256: digest that ``weights`` must have.

    Raises:
        InputError: if the file is missing, damaged or another network's, or torchvision is not installed.
    """

    def __init__(self, weights: str, iterations: int = 20, sha256: Sha256 = None) -> None:
        super().__init__()
        needs_torchvision("RaftFlow")
        if iterations < 1:
            raise InputError(f"RaftFlow.iterations is {iterations}; it must be at least 1")
        file = needed_file(weights, sha256, "RaftFlow.weights", f"download {RAFT_FILE}")
        from torchvision.models.optical_flow import raft_large

        self.iterations = iterations
        self.net = raft_large().requires_grad_(False).eval()
        load_safetensors(self.net, file, weights)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """See `OpticalFlow.forward`."""
        height, width = first.shape[-2:]
        scale = max(1.0, _SMALLEST / min(height, width))
        size = round(height * scale), round(width * scale)
        pictures = [_enlarged(picture, size) for picture in (first, second)]
        (left, inside), (right, _) = (padded_to_multiple(2 * picture - 1, _MULTIPLE) for picture in pictures)
        flow = self.net(left, right, num_flow_updates=self.iterations)[-1][..., inside[0], inside[1]]
        return flow if scale == 1 else _reduced(flow, height, width)

    def identity(self) -> dict[str, object]:
        """Weights and iterations."""
        return {"flow": "raft_large", "iterations": self.iterations, "sha256": identity_of(self.net).sha256}


def _enlarged(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    same = pictures.shape[-2:] == size
    return pictures if same else F.interpolate(pictures, size, mode="bilinear", align_corners=False)


def _reduced(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow of enlarged pictures in pixels of the pictures themselves."""
    shrink = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).view(2, 1, 1)
    return F.interpolate(flow, (height, width), mode="bilinear", align_corners=False) * shrink
