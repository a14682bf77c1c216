"""Word features without weights: every word is a fixed random vector found from its spelling."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts import TextEncoder, TextFeatures


class HashedWords(TextEncoder):
    """One token per word, a unit-variance vector seeded by the word's CRC-32.

    The pooled vector is their sum over the root of their number.

    Enough to tell the classes of a small data set apart; the empty prompt is one zero token.

    Args:
        dim: width of tokens and pooled vector.
        max_words: words kept of a prompt.
    """

    anchor: Tensor

    def __init__(self, dim: int = 64, max_words: int = 16) -> None:
        super().__init__()
        self.dim = self.pooled_dim = dim
        self.max_words = max_words
        self._known: dict[str, Tensor] = {}
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the module's device

    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """B prompts to tokens ``[B, M, dim]``, M the longest prompt in words (at least 1)."""
        words = [re.findall(r"\w+", prompt.lower())[: self.max_words] for prompt in prompts]
        length = max([1, *(len(w) for w in words)])
        tokens = torch.zeros(len(prompts), length, self.dim)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)
        # a prompt without words is one zero token, for attention over nothing is undefined
        mask[:, 0] = True
        for b, prompt in enumerate(words):
            for m, word in enumerate(prompt):
                tokens[b, m] = self._vector(word)
                mask[b, m] = True
        pooled = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True).sqrt()
        lengths = [max(1, len(prompt)) for prompt in words]
        features = TextFeatures(tokens, mask, pooled, tuple((length, length) for length in lengths))
        return features.to(self.anchor.device, non_blocking=True)

    def _vector(self, word: str) -> Tensor:
        if word not in self._known:
            # by spelling, not by order of appearance: every process has the same vectors
            generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            self._known[word] = torch.randn(self.dim, generator=generator)
        return self._known[word]
