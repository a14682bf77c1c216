"""Features of FVD and KVD: an action recogniser's, of a few frames at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import FeatureExtractor
from components.metrics.video.frames import Interpolation, frames_at, resized
from components.metrics.video.judge import FrozenJudge, at_least_one, positive_or_none
from components.metrics.video.torchscript import load_torchscript
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, published

SCRIPT = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt"
Windows = Literal["first", "all"]


@published(f"download {SCRIPT}")
@names_files("script")
class I3DClips(FrozenJudge, FeatureExtractor):
    """What I3D makes of a window of frames, by default its 400 numbers before the softmax.

    FVD depends on frames, rate and size as much as on the model, and published protocols differ in all of them: say
    yours. The defaults are AVSyncD's: the first 12 frames at 6 frames a second, squeezed to 224 x 224 (bicubic, with
    low-pass). For StyleGAN-V's FVD: ``num_frames: 16``, ``rate_hz: null``, and ``size: null`` with
    ``arguments: {rescale: false, resize: true, return_features: true}``, where the script resizes by itself.
    Metrics specification, section 8.

    Args:
        script: the TorchScript file ``i3d_torchscript.pt`` (see `SCRIPT`), or any that maps ``[1, 3, T, H, W]`` in
            [-1, 1] to ``[1, dim]``. It is a program, see `load_torchscript`.
        num_frames: frames of a window.
        rate_hz: frames per second that windows are made of; None takes every frame.
        size: side that pictures are squeezed to, whatever their aspect; None leaves them.
        windows: ``first`` gives a clip one feature; ``all`` one for each whole window, without overlap.
        interpolation: of the squeezing, ``bicubic`` or ``bilinear``.
        antialias: with a low-pass before it.
        dim: numbers the script gives.
        arguments: what the script is called with beside the frames; None is what I3D needs to give features of frames
            as they are, ``{}`` nothing.
        sha256: digest that ``script`` must have.

    Raises:
        InputError: if the file is missing or is no TorchScript, or an argument is out of range.
    """

    def __init__(
        self,
        script: str,
        num_frames: int = 12,
        rate_hz: float | None = 6.0,
        size: int | None = 224,
        windows: Windows = "first",
        interpolation: Interpolation = "bicubic",
        antialias: bool = True,
        dim: int = 400,
        arguments: Mapping[str, bool] | None = None,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        at_least_one(self, num_frames=num_frames, dim=dim)
        positive_or_none(self, rate_hz=rate_hz, size=size)
        if windows not in get_args(Windows) or interpolation not in get_args(Interpolation):
            raise InputError(
                f"I3DClips.windows is '{windows}' and interpolation '{interpolation}'; use one of "
                f"{', '.join(get_args(Windows))}, and one of {', '.join(get_args(Interpolation))}"
            )
        self.net = load_torchscript(script, sha256, "I3DClips.script", f"download {SCRIPT}")
        self.num_frames, self.rate_hz, self.size, self.windows = num_frames, rate_hz, size, windows
        self.interpolation: Interpolation = interpolation
        self.antialias, self.dim = antialias, dim
        default = {"rescale": False, "resize": False, "return_features": True}
        self.arguments = dict(default if arguments is None else arguments)
        self.eval()

    def features(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        """See `FeatureExtractor.features`.

        Raises:
            InputError: if a clip is shorter than a window, or the script gives something else.
        """
        with self.judging():
            return [self._of_clip(generation, row) for row in rows]

    def _of_clip(self, generation: Generation, row: int) -> Tensor:
        every = self.frames_of(generation, row)
        frames = every[frames_at(len(every), generation.fps, self.rate_hz)]
        count = len(frames) // self.num_frames
        if not count:
            rate = generation.fps if self.rate_hz is None else self.rate_hz
            raise InputError(
                f"clip '{generation.reference.ids[row]}' has {len(frames)} frames at {rate:g} per second, but "
                f"I3DClips.num_frames is {self.num_frames}; give longer clips or lower it"
            )
        if self.size is not None:
            frames = resized(frames, self.size, self.size, self.interpolation, self.antialias)
        taken = count if self.windows == "all" else 1
        pictures = (2 * frames - 1).clamp(-1, 1)[: taken * self.num_frames]
        return torch.cat([self._of_window(window) for window in pictures.split(self.num_frames)])

    def _of_window(self, frames: Tensor) -> Tensor:
        """``[T, 3, H, W]`` in [-1, 1] to ``[1, dim]``."""
        found = self.net(frames.transpose(0, 1)[None], **self.arguments)
        if not isinstance(found, Tensor) or found.shape != (1, self.dim):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(f"I3DClips.script gave {shape} for one window, not [1, {self.dim}]; set dim to match")
        return found.float()

    def identity(self) -> dict[str, object]:
        """Script, and the frames it sees."""
        return {
            "num_frames": self.num_frames,
            "rate_hz": self.rate_hz,
            "size": self.size,
            "windows": self.windows,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "arguments": dict(self.arguments),
            "sha256": identity_of(self.net).sha256,
        }
