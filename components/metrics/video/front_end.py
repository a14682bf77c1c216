"""A public model's own front end: size, crop and scale of pictures as its folder says."""

from __future__ import annotations

import torch
from torch import Tensor

from components.encoders.transformers_model import load_feature_extractor
from components.weights.pretrained import builds_shapes_only


class FrontEnd:
    """The image processor of a folder of transformers.

    Args:
        checkpoint: folder or hub repository with ``preprocessor_config.json``.

    Raises:
        InputError: if it has none that is usable.
    """

    def __init__(self, checkpoint: str) -> None:
        # nothing is looked at where only shapes are built
        self._processor = None if builds_shapes_only() else load_feature_extractor("AutoImageProcessor", checkpoint)

    def __call__(self, frames: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] to what the model takes, on the same device."""
        assert self._processor is not None
        # the public front ends see 8-bit pictures, and resize those
        pictures = (255 * frames).round().to(torch.uint8)
        prepared: Tensor = self._processor(images=list(pictures), return_tensors="pt", device=frames.device)[
            "pixel_values"
        ]
        return prepared.to(frames.device)
