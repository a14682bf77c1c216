"""The sounds of one clip at the rate a model wants, and how loud they are.

Legend for shapes: S samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchaudio.functional import resample

from components.contracts import Generation
from components.errors import InputError


def generated_sound(generation: Generation, row: int, sample_rate: int) -> Tensor:
    """The generated sound of clip ``row``: float32 ``[S]`` at ``sample_rate``; sample 0 stays where it is."""
    return at_rate(generation.audio[row], generation.sample_rate, sample_rate)


def real_sound(generation: Generation, row: int, sample_rate: int) -> Tensor:
    """The real sound of clip ``row`` at ``sample_rate``: float32 ``[S]``.

    Raises:
        InputError: if the clip has none here, because only its prepared latents were read.
    """
    audio = generation.reference.audio
    if audio.ndim != 2 or not audio.shape[1]:
        raise InputError(
            f"clip '{generation.reference.ids[row]}' comes without its real sound, which the generated one is compared "
            "with; evaluate on the data set itself instead of prepared latents"
        )
    return at_rate(audio[row], generation.reference.sample_rate, sample_rate).to(generation.audio.device)


def is_mute(generation: Generation, row: int) -> bool:
    """Whether clip ``row`` has no sound track, so that nobody knows what was to be heard."""
    mute = generation.reference.mute
    return mute is not None and bool(mute[row])


def level_dbfs(sound: Tensor) -> float:
    """Root mean square of a sound ``[S]`` in decibels below full scale; minus infinity for digital silence."""
    power = float(sound.double().square().mean()) if sound.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else -math.inf


def pieces(sound: Tensor, max_samples: int) -> tuple[Tensor, ...]:
    """A sound ``[S]`` as the fewest pieces of equal length (to one sample) of at most ``max_samples`` samples.

    Equal ones, because a short rest at the end would count as much as a whole piece.
    """
    return torch.tensor_split(sound, max(1, math.ceil(len(sound) / max_samples)))


def at_rate(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Sound ``[S]`` at another rate, float32; sample 0 stays where it is."""
    sound = audio.float()
    return sound if from_rate == to_rate else resample(sound, from_rate, to_rate)
