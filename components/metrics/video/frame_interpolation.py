"""The frame between two frames.

Legend for shapes: N pairs of pictures, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from components.errors import InputError
from components.metrics.video.frames import padded_to_multiple
from components.metrics.video.torchscript import load_torchscript
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files


class FrameInterpolator(nn.Module, ABC):
    """Guesses what was between two frames, as motion without jerks would have it."""

    @abstractmethod
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] twice to the pictures half way between, ``[N, 3, H, W]``."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that a guess depends on beside the pictures, as plain values."""


@names_files("script")
class ScriptedInterpolator(FrameInterpolator):
    """Any interpolation network as a TorchScript file that maps two pictures to the one between them.

    VBench's is AMT-S (https://github.com/MCG-NKU/AMT, CC BY-NC 4.0), which no package brings. In its own environment,
    at the size of your clips (sides padded to ``multiple``)::

        class Middle(torch.nn.Module):
            def __init__(self, amt): super().__init__(); self.amt = amt
            def forward(self, first, second):
                half = torch.full((1, 1, 1, 1), 0.5, device=first.device)
                return self.amt(first, second, half, scale_factor=1.0, eval=True)["imgt_pred"]

        torch.jit.trace(Middle(amt.eval()), (picture, picture)).save("amt_s_384x640.pt")

    A traced network knows one size alone, and one device if it makes tensors of its own.

    Args:
        script: the TorchScript file. It is a program, see `load_torchscript`.
        multiple: sides are padded to multiples of this by repeating edges; 16 as AMT needs.
        sha256: digest that ``script`` must have.

    Raises:
        InputError: if the file is missing or is no TorchScript, or a number is out of range.
    """

    def __init__(self, script: str, multiple: int = 16, sha256: Sha256 = None) -> None:
        super().__init__()
        if multiple < 1:
            raise InputError(f"ScriptedInterpolator.multiple is {multiple}; it must be at least 1")
        self.multiple = multiple
        fix = "write it as the class's description says"
        self.net = load_torchscript(script, sha256, "ScriptedInterpolator.script", fix)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """See `FrameInterpolator.forward`.

        Raises:
            InputError: if the script gives something else.
        """
        (left, inside), (right, _) = (padded_to_multiple(pictures, self.multiple) for pictures in (first, second))
        between = self.net(left, right)
        if not isinstance(between, Tensor) or between.shape != left.shape:
            found = list(between.shape) if isinstance(between, Tensor) else type(between).__name__
            raise InputError(
                f"ScriptedInterpolator.script gave {found} for pictures {list(left.shape)}; it must give one of their "
                "shape"
            )
        return between[..., inside[0], inside[1]]

    def identity(self) -> dict[str, object]:
        """The script."""
        return {"multiple": self.multiple, "sha256": identity_of(self.net).sha256}
