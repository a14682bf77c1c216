"""Transcript features without weights: every character is a fixed random vector, told apart by its place."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts import TextFeatures, TranscriptEncoder
from components.encoders.transcript.limit import OnTooLong, within_characters
from components.errors import InputError


class CharacterTranscript(TranscriptEncoder):
    """One token per character: a vector seeded by its code point plus sines and cosines of its position.

    Cross-attention does not see order, so positions are part of the tokens. Letters are taken in lower case; the empty
    transcript is one zero token. Enough to learn the few words of a small data set.

    Args:
        dim: width of the tokens; even.
        max_characters: characters read of a transcript.
        on_too_long: ``error`` refuses a longer transcript, ``truncate`` drops its end.
    """

    positions: Tensor

    def __init__(self, dim: int = 64, max_characters: int = 96, on_too_long: OnTooLong = "error") -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise InputError(f"dim is {dim}, but must be even and positive: positions take sines and cosines")
        self.dim = dim
        self.max_characters = max_characters
        self.on_too_long: OnTooLong = on_too_long
        self._known: dict[str, Tensor] = {}
        rates = 1e-3 ** torch.linspace(0, 1, dim // 2)  # from a radian a character to a radian a thousand
        angles = torch.arange(max_characters)[:, None] * rates
        positions = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)  # unit mean square
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, prompts: Sequence[str], ids: Sequence[str] | None = None) -> TextFeatures:
        """B transcripts to unit-variance tokens ``[B, M, dim]``, M the longest in characters (at least 1).

        Raises:
            InputError: if a transcript is too long and is not to be truncated.
        """
        texts = [unicodedata.normalize("NFC", prompt.strip()).lower() for prompt in prompts]
        texts = within_characters(texts, ids, self.max_characters, self.on_too_long)
        alphabet = sorted(set().union(*texts))
        row_of = {character: row + 1 for row, character in enumerate(alphabet)}  # row 0 is padding
        length = max(1, *map(len, texts)) if texts else 1
        index = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in enumerate(texts):
            index[row, : len(text)] = torch.tensor([row_of[character] for character in text], dtype=torch.long)
        device = self.positions.device
        table = torch.stack([torch.zeros(self.dim), *map(self._vector, alphabet)]).to(device, non_blocking=True)
        index = index.to(device, non_blocking=True)
        is_real = (index > 0)[..., None]
        # two unit-variance parts over sqrt(2): unit variance again
        tokens = (table[index] + self.positions[:length]) * is_real / math.sqrt(2)
        mask = index > 0
        mask[:, 0] = True  # attention over nothing is undefined
        return TextFeatures(tokens, mask)

    def _vector(self, character: str) -> Tensor:
        if character not in self._known:
            # by code point: every process and every run has the same vectors
            generator = torch.Generator().manual_seed(ord(character))
            self._known[character] = torch.randn(self.dim, generator=generator)
        return self._known[character]
