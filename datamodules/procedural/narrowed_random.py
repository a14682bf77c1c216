"""Random choices that can be held near their middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class NarrowedRandom(np.random.Generator):
    """A generator whose single draws stay within a share of their range; arrays are drawn as usual.

    Scenes draw every trait of their looks as a single number, so ``variety`` says how much two clips of one scene may
    differ: 1 is the full range, 0 gives always the same picture.

    Args:
        bit_generator: source of the random bits.
        variety: share of the range around its middle, 0 to 1; below 1, choices between kinds fall on the first.
    """

    def __init__(self, bit_generator: np.random.BitGenerator, variety: float) -> None:
        super().__init__(bit_generator)
        self.variety = variety

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Uniform in the middle share of ``[low, high)``."""
        # drawn in full and pulled to the middle: the stream of random bits is the same for every variety
        drawn = super().uniform(low, high, size)
        middle = (low + high) / 2
        return drawn if size is not None else middle + self.variety * (drawn - middle)

    def choice(self, a: Any, *args: Any, **kwargs: Any) -> Any:
        """One of ``a``; the first if the variety is not full."""
        options: Sequence[Any] = a
        return super().choice(options, *args, **kwargs) if self.variety >= 1 else options[0]

    def integers(self, low: Any, *args: Any, **kwargs: Any) -> Any:
        """An index below ``low``; 0 if the variety is not full."""
        return super().integers(low, *args, **kwargs) if self.variety >= 1 else 0
