"""The contract of a model that puts pictures, sounds and texts into one space; ImageBind is one, users bring others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import InputError


class EmbeddingModel(nn.Module, ABC):
    """Embeds pictures, sounds and texts so that what belongs together points the same way.

    Only directions count: what is returned need not have length 1. Scores of two models have different scales and are
    never comparable; those called IB in papers are ImageBind-huge's.

    Attributes:
        image_size: rows and columns of the pictures that are asked for.
    """

    image_size: int = 224

    @abstractmethod
    def pictures(self, frames: Tensor) -> Tensor:
        """Pictures ``[N, 3, image_size, image_size]``, RGB in [0, 1], to ``[N, D]``; the model normalises them."""

    @abstractmethod
    def sounds(self, waveform: Tensor) -> Tensor:
        """Sounds ``[N, S]``, mono in [-1, 1] at 16 kHz, as a rule 2 s and never below 25 ms, to ``[N, D]``."""

    @abstractmethod
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """N texts to ``[N, D]``."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Name, settings and the SHA-256 of the weights, as plain values."""

    def videos(self, pairs: Tensor) -> Tensor:
        """Pairs of successive pictures ``[N, 2, 3, image_size, image_size]`` to ``[N, D]``.

        A model that sees no motion takes the mean of the two pictures.
        """
        each: Tensor = self.pictures(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
        return each.mean(dim=1)


def unit_pictures(model: EmbeddingModel, frames: Tensor, at_once: int) -> Tensor:
    """Unit vectors ``[N, D]`` of pictures, ``at_once`` of them in one pass, which bounds the memory."""
    parts = frames.split(at_once)
    found = [_units(model, "pictures", model.pictures(_beside(model, part)), len(part)) for part in parts]
    return torch.cat(found)


def mean_video(model: EmbeddingModel, pairs: Tensor, at_once: int) -> Tensor:
    """The mean ``[D]`` of the unit vectors of pairs of pictures ``[N, 2, 3, W, W]``, ``at_once`` in one pass."""
    parts = pairs.split(at_once)
    found = [_units(model, "videos", model.videos(_beside(model, part)), len(part)) for part in parts]
    return torch.cat(found).mean(dim=0)


def mean_sound(model: EmbeddingModel, sounds: Sequence[Tensor]) -> Tensor:
    """The mean ``[D]`` of the unit vectors of sounds ``[S]`` of any lengths at 16 kHz."""
    found = [_units(model, "sounds", model.sounds(_beside(model, sound[None])), 1) for sound in sounds]
    return torch.cat(found).mean(dim=0)


def unit_text(model: EmbeddingModel, prompt: str) -> Tensor:
    """The unit vector ``[D]`` of a text."""
    return _units(model, "texts", model.texts([prompt]), 1)[0]


def _beside(model: EmbeddingModel, given: Tensor) -> Tensor:
    """``given`` where the model's weights are."""
    return given.to(next(model.parameters(), given).device)


def _units(model: EmbeddingModel, method: str, found: Tensor, count: int) -> Tensor:
    """Vectors of length 1, as many as were asked for.

    Raises:
        InputError: if a model of one's own gives something else.
    """
    if found.ndim != 2 or len(found) != count:
        raise InputError(
            f"{type(model).__name__}.{method} returned {list(found.shape)} for {count} of them; one row of numbers "
            "each is needed"
        )
    return F.normalize(found.float(), dim=-1)
