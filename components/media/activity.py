"""Whether anything is heard in clips, and whether anything moves."""

from __future__ import annotations

import torch
from torch import Tensor

from components.contracts import ClipBatch

_AUDIBLE = 1e-3  # -60 dB of full scale
_MOVING = 0.5  # grey levels of 255, mean over a frame: less is the noise of a video codec
_MOVING_LATENT = 1e-2


def carries_sound(batch: ClipBatch) -> Tensor:
    """Bool ``[B]``: clips that are not silent (some sample beyond -60 dB)."""
    if batch.prepared is not None:
        return batch.prepared.sounding
    if not batch.audio.shape[1]:
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.audio.device)
    return batch.audio.abs().amax(dim=1) > _AUDIBLE


def carries_motion(batch: ClipBatch) -> Tensor:
    """Bool ``[B]``: clips in which some frame differs from the first by half a grey level on average."""
    if batch.prepared is not None:
        return batch.prepared.moving
    if batch.video.shape[1] < 2:
        latents = batch.video_latents
        if latents is None or latents.shape[2] < 3:
            return torch.zeros(len(batch), dtype=torch.bool, device=batch.video.device)
        change = (latents[:, :, 2:] - latents[:, :, 1:2]).abs()  # latent 0 is one frame and never like the others
        return change.flatten(1).amax(dim=1) > _MOVING_LATENT
    first = batch.video[:, :1].float()
    # eight frames at a time: all of them as floats would take four times the memory of the batch
    different = [(frames.float() - first).abs().mean(dim=(2, 3, 4)) for frames in torch.split(batch.video, 8, dim=1)]
    return torch.cat(different, dim=1).amax(dim=1) > _MOVING
