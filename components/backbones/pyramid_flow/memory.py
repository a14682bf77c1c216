"""Keys and values that one autoregressive unit leaves to the next: text and oldest history are computed once.

Attention is causal over latent frames, so text and history never depend on what is denoised. All tokens are modulated
with the current timestep, so they do depend on the step; and positions count in the grid of the current clip, so they
depend on the stage. At one step of one stage, then, the text and the frames that are at the lowest resolution already
have the same keys and values in every later unit, and nothing else has. Text sees frame 0: it can be kept together
with that frame and not without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.backbones.attention_kernel import attention_dtypes


@dataclass(frozen=True)
class _Held:
    """Room for one attention's keys and values, ``[R, capacity, H, d]`` each."""

    keys: Tensor
    values: Tensor


class ColumnMemory:
    """What the attentions of a transformer know of a column's text and oldest latent frames; for sampling only.

    Args:
        capacity: most latent frames it will ever hold. Memory for them is taken at once, so that it does not grow.

    Attributes:
        frames: latent frames held, the text in front of them; 0: neither.
        tokens: tokens held.
        next_frames: latent frames to hold after the next call, which has to compute those that are not there yet.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.frames = 0
        self.tokens = 0
        self.next_frames = 0
        self._next_tokens = 0
        self._room = 0
        self._held: dict[nn.Module, _Held] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(x.nbytes for held in self._held.values() for x in (held.keys, held.values))

    def plan(self, num_text: int, frame_sizes: Sequence[int]) -> None:
        """Tell it the tokens of the next call, text and latent frames, behind those that are held.

        Raises:
            ValueError: if more frames are to be held than there is room for.
        """
        if self.next_frames > self.capacity:
            raise ValueError(f"{self.next_frames} latent frames exceed the {self.capacity} that this memory is for")
        if not self.frames:
            # all frames that are ever held have the lowest resolution, as the first has now
            self._room = num_text + self.capacity * frame_sizes[0]
        new = self.next_frames - self.frames
        self._next_tokens = self.tokens + (num_text + sum(frame_sizes[:new]) if new else 0)

    def extended(self, attention: nn.Module, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[R, S, H, d]`` of the call with those in front that are held; holds what is planned.

        Args:
            attention: whose they are.
            keys: of the call's tokens, rotated.
            values: of the call's tokens.
        """
        keys = keys.to(attention_dtypes(values.dtype, values.device)[0])
        new = self._next_tokens - self.tokens
        held = self._held.get(attention)
        if held is None:
            if not new:
                return keys, values
            held = self._held[attention] = _Held(_room(keys, self._room), _room(values, self._room))
        there = slice(self.tokens, self._next_tokens)
        held.keys[:, there], held.values[:, there] = keys[:, :new], values[:, :new]
        if not self.tokens:
            return keys, values
        before = (held.keys[:, : self.tokens], held.values[:, : self.tokens])
        return torch.cat([before[0], keys], dim=1), torch.cat([before[1], values], dim=1)

    def advance(self) -> None:
        """The call is done: what was planned is held."""
        self.frames, self.tokens = self.next_frames, self._next_tokens


def _room(like: Tensor, tokens: int) -> Tensor:
    rows, _, heads, channels = like.shape
    return like.new_empty(rows, tokens, heads, channels)
