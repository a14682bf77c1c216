"""MMAudio as a video-to-audio model of this process, where its package is installed beside this one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.contracts import V2AModel
from components.errors import InputError
from components.v2a.runners.mmaudio_model import WEIGHTS, MMAudio
from components.v2a.runners.program import Clip
from components.weights.named_files import names_files, published


@published(f"download its files from {WEIGHTS}")
@names_files("weights")
class MMAudioV2A(V2AModel):
    """One of the public MMAudio models.

    Its package pins old libraries; where it does not fit beside this one, run it through
    `components.v2a.subprocess_v2a.SubprocessV2A` in an environment of its own.

    Args:
        weights: folder with the authors' files of the variant, or their checkout.
        variant: ``small_16k``, ``small_44k``, ``medium_44k``, ``large_44k`` or ``large_44k_v2``.
        num_steps: Euler steps of the flow.
        cfg_strength: guidance; below 1 there is none.
        negative_prompt: what is not to be heard.
        precision: ``bfloat16``, ``float16`` or ``float32``.

    Raises:
        InputError: if the package or a file is missing, or a setting cannot be.
    """

    def __init__(
        self,
        weights: str,
        variant: str = "small_44k",
        num_steps: int = 25,
        cfg_strength: float = 4.5,
        negative_prompt: str = "",
        precision: str = "bfloat16",
    ) -> None:
        super().__init__()
        self.variant, self.num_steps, self.cfg_strength = variant, num_steps, cfg_strength
        self.negative_prompt, self.precision = negative_prompt, precision
        given = Namespace(**self.identifying_settings(), weights=weights, device="cpu")
        if complaint := MMAudio.complaint(given):
            raise InputError(f"MMAudioV2A: {complaint}")
        model = MMAudio(given)
        # as modules of this one: they follow it to its device, and their bytes are what the judge is known by
        self.net, self.features = model.net, model.features
        self.eval().requires_grad_(False)
        self._model = model

    def forward(
        self,
        video: Tensor,
        fps: float,
        captions: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, int]:
        """``[B, T, 3, H, W]`` in [0, 1] to a waveform ``[B, S]`` over ``[0, T / fps]`` s, and its sample rate."""
        pixels = (video.float().clamp(0, 1) * 255).round().to(torch.uint8)
        tracks, rate = [], 0
        for index, frames in enumerate(pixels):
            caption = "" if captions is None else captions[index]
            seed = 0 if generators is None else generators[index].initial_seed() % 2**31
            sound, rate = self._model(Clip(frames, fps, caption, seed))
            wanted = round(video.shape[1] / fps * rate)
            tracks.append(pad(sound[:wanted], (0, max(0, wanted - len(sound)))))
        return torch.stack(tracks).to(video.device), rate
