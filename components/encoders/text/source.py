"""A text encoder that is known but not loaded: what it would give, which files it is made of, and how to load it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from components.contracts import TextEncoder


class TextEncoderSource(ABC):
    """Cheap to build: weights are read by `load` alone.

    Attributes:
        name: what the encoder is asked for by.
        dim: width of the tokens.
        pooled_dim: width of the pooled vector.
    """

    name: str
    dim: int
    pooled_dim: int

    @abstractmethod
    def files(self) -> list[Path]:
        """Every file the features depend on."""

    @abstractmethod
    def settings(self) -> Mapping[str, str | int]:
        """Everything else the features depend on, such as precision and longest prompt."""

    @abstractmethod
    def load(self) -> TextEncoder:
        """The encoder itself, on the CPU."""
