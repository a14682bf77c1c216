"""Networks that name what is heard: their last hidden layer compares sets of sounds, their classes pairs of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from components.errors import InputError
from components.metrics.sound.frozen import SoundFeatures
from components.weights.identity import identity_of


class AudioTagger(nn.Module, ABC):
    """Names the sounds of a clip among the classes of AudioSet.

    Attributes:
        sample_rate: rate that it takes.
        dim: width of its embedding.
        num_classes: how many classes it knows.
    """

    sample_rate: int
    dim: int
    num_classes: int

    @abstractmethod
    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """A sound ``[S]`` in [-1, 1] to its embedding ``[dim]`` and the logits ``[num_classes]`` of its classes."""

    def identity(self) -> dict[str, object]:
        """What it is: the SHA-256 of its weights."""
        return {"tagger": type(self).__name__, "weights_sha256": identity_of(self).sha256}


class TaggerFeatures(SoundFeatures):
    """One vector per clip from a tagger.

    Args:
        tagger: `components.metrics.sound.panns.Panns` or `components.metrics.sound.passt.Passt`.
        output: ``embedding`` for the Frechet distance (FD-PANNs, FD-PaSST), ``logits`` for the Inception Score.

    Raises:
        InputError: if ``output`` is neither.
    """

    def __init__(self, tagger: AudioTagger, output: Literal["embedding", "logits"] = "embedding") -> None:
        super().__init__()
        if output not in ("embedding", "logits"):
            raise InputError(f"TaggerFeatures.output is '{output}'; give embedding or logits")
        self.tagger, self.output = tagger, output
        self.sample_rate = tagger.sample_rate
        self.dim = tagger.dim if output == "embedding" else tagger.num_classes
        self.eval().requires_grad_(False)

    def embed(self, sound: Tensor) -> Tensor:
        """Features ``[1, dim]`` of a sound ``[S]``."""
        embedding, logits = self.tagger(sound)
        result: Tensor = (embedding if self.output == "embedding" else logits)[None]
        return result

    def identity(self) -> dict[str, object]:
        """The tagger and which of its outputs is meant."""
        return {**self.tagger.identity(), "output": self.output}
