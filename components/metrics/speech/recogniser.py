"""What turns speech into text. Of the public models Whisper is one; a model of your own derives from this class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class SpeechRecogniser(nn.Module, ABC):
    """Writes down what is said.

    Attributes:
        sample_rate: rate that it takes.
        english_spelling: American spellings of British ones, used on both texts before they are compared.
    """

    sample_rate: int
    english_spelling: Mapping[str, str]

    @abstractmethod
    def transcribe(self, sound: Tensor, language: str) -> str:
        """What is said in a sound ``[S]`` in [-1, 1].

        Args:
            sound: float32 at ``sample_rate``.
            language: code such as ``en`` or ``zh``, or the empty string where it is unknown.

        Raises:
            InputError: if the language cannot be understood.
        """

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that a transcript depends on beside the sound, as plain values."""
