"""LPIPS as a loss: how far decoded frames are from the real ones to a network that knows pictures.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018).
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.weights.digests import Sha256, check_digests
from components.weights.identity import record_identity
from components.weights.named_files import names_files
from components.weights.places import located

Backbone = Literal["vgg", "alex", "squeeze"]
_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""Torchvision's ImageNet weights, below https://download.pytorch.org/models/; torchmetrics has the rest."""


@names_files("weights")
class LPIPS(nn.Module):
    """Torchmetrics' LPIPS, with gradients to the frames and none to its own weights.

    Nothing is downloaded: the backbone's weights are a file on this disk.

    Args:
        weights: torchvision's file for the backbone, for example ``vgg16-397923af.pth`` from
            https://download.pytorch.org/models/.
        backbone: ``vgg`` (Pyramid Flow's and latent diffusion's choice), ``alex`` or ``squeeze``.
        sha256: digest that ``weights`` must have.

    Raises:
        InputError: if the file is missing or does not fit, or torchvision is not installed.
    """

    def __init__(self, weights: str, backbone: Backbone = "vgg", sha256: Sha256 = None) -> None:
        super().__init__()
        if backbone not in get_args(Backbone):
            raise InputError(f"LPIPS.backbone is '{backbone}'; use one of {', '.join(get_args(Backbone))}")
        name = _FILES[backbone]
        file = located(weights)
        if not file.is_file():
            raise InputError(
                f"LPIPS.weights: '{weights}' does not exist; download https://download.pytorch.org/models/{name} and "
                "give its path, or leave the perceptual loss out"
            )
        check_digests(file, sha256)
        if importlib.util.find_spec("torchvision") is None:
            raise InputError("LPIPS needs torchvision, which is not installed: pip install torchvision")
        self.net = _built(backbone, file, name).requires_grad_(False).eval()
        record_identity(self, str(weights), [file])

    def forward(self, decoded: Tensor, real: Tensor) -> Tensor:
        """Distances ``[N]`` of frames ``[N, 3, H, W]`` in [-1, 1], at least 32 pixels a side."""
        distances: Tensor = self.net(decoded, real)
        return distances.flatten()


def _built(backbone: Backbone, file: Path, name: str) -> nn.Module:
    """The network; torchvision looks for its weights in torch.hub's folder, which is a temporary one meanwhile."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoints" / name
        place.parent.mkdir()
        try:
            place.symlink_to(file.absolute())
        except OSError:  # a file system without links
            shutil.copy(file, place)
        torch.hub.set_dir(folder)
        try:
            net: nn.Module = LearnedPerceptualImagePatchSimilarity(backbone).net
        except (RuntimeError, KeyError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"LPIPS.weights: '{file}' does not fit the backbone '{backbone}' ({reason}); give torchvision's {name}"
            ) from None
        finally:
            torch.hub.set_dir(before)
    return net
