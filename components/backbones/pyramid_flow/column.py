"""Columns: how the Pyramid Flow transformer receives clips of several resolutions, and where their tokens sit.

A column is a list of clips of one and the same sample row, the oldest history first and the clip being denoised last.
History may be at lower resolution. Columns never attend to each other, so packing them into one call is batching.

Layouts and tables are cached by shape. They are made outside `torch.inference_mode`, because a table that is first
needed while validating would otherwise be unusable in the backward pass of every later training step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from components.backbones.context_parallel import ContextGroup, TokenSplit
from components.backbones.pyramid_flow.memory import ColumnMemory
from components.backbones.rope import rotary_table
from components.contracts import TextFeatures

PatchGrid = tuple[int, int, int]
"""Latent frames, rows and columns of a clip in the patch grid."""


@dataclass(frozen=True)
class Column:
    """One column of the transformer's input.

    Attributes:
        clips: ``[R, C, t_k, h_k, w_k]`` each, oldest first; the last clip is the one being denoised.
        timesteps: ``[R]`` on the 0-1000 scale, float32.
        text: text features of the R rows.
        memory: what is known of text and oldest frames from an earlier call; only the others are computed.
    """

    clips: Sequence[Tensor]
    timesteps: Tensor
    text: TextFeatures
    memory: ColumnMemory | None = None

    @property
    def num_rows(self) -> int:
        """R, the rows of the column."""
        return self.clips[-1].shape[0]


register_dataclass(Column)  # see `components.backbones.pyramid_flow.state`


# Compared by identity: layouts are cached by their shapes. Not frozen, because compilers look at all fields of what is
# frozen, and would compile anew for every number of clips.
@dataclass(eq=False)
class TokenLayout:
    """Which clip, frame and place every video token of a column has.

    Attributes:
        shapes: patch grid of every clip, oldest first.
        num_text: text tokens in front of the video tokens.
        positions: float64 ``[num_text + num_video, 3]``: latent frame index, row, column (text: all zero).
        first_frame: latent frame index of the first video token.
        split: how the tokens are shared among processes, if they are; all else is then of this process's tokens, which
            lie in one row of each frame.
        everything: the layout of all tokens, where they are shared.
        num_current: tokens of the clip being denoised (they come last).
    """

    shapes: tuple[PatchGrid, ...]
    num_text: int
    positions: Tensor
    first_frame: int = 0
    split: TokenSplit | None = None
    everything: TokenLayout | None = None
    num_current: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_current = math.prod(self.shapes[-1])

    def clip_slices(self) -> list[tuple[slice, int, PatchGrid]]:
        """Per clip: its tokens in the joint sequence, its first latent frame index, its patch grid."""
        slices, token, frame = [], self.num_text, self.first_frame
        for t, h, w in self.shapes:
            slices.append((slice(token, token + t * h * w), frame, (t, h, w)))
            token, frame = token + t * h * w, frame + t
        return slices

    def frame_sizes(self) -> list[int]:
        """Tokens of every latent frame."""
        return [h * w for t, h, w in self.shapes for _ in range(t)]

    def causal_calls(self, known: int = 0, current_only: bool = False) -> list[tuple[int, int]]:
        """`causal_mask` as calls of attention, one for each latent frame: its queries, and where its keys end.

        Text, which stands at time 0, goes with frame 0.

        Args:
            known: keys in front of those of the layout's tokens.
            current_only: leave out all queries but those of the last clip.
        """
        sizes = self.frame_sizes()
        ends = list(accumulate(sizes, initial=known + self.num_text))[1:]
        if current_only:
            frames = self.shapes[-1][0]
            return list(zip(sizes[-frames:], ends[-frames:], strict=True))
        return list(zip([self.num_text + sizes[0], *sizes[1:]], ends, strict=True))


# 512: a prefix length, stage and text length each make a shape of their own
@lru_cache(maxsize=512)
@torch.inference_mode(False)
def token_layout(
    shapes: tuple[PatchGrid, ...],
    num_text: int,
    device: torch.device,
    stretch_history: bool = True,
    first_frame: int = 0,
) -> TokenLayout:
    """Positions of a column's tokens, as the released code of Pyramid Flow counts them.

    The time index is absolute: the clip's first frame is 0. Rows and columns count in the patch grid of the current
    clip; row i of a history clip of height h sits at ``(i + 0.5) H / h - 0.5`` (``stretch_history``).
    """
    _, height, width = shapes[-1]
    # Text stands at the origin: its rotation is the identity, and the causal rule lets it attend to frame 0 alone.
    parts = [torch.zeros(num_text, 3, dtype=torch.float64, device=device)]
    first = first_frame
    for t, h, w in shapes:
        frame = torch.arange(first, first + t, dtype=torch.float64, device=device)
        row = torch.arange(h, dtype=torch.float64, device=device)
        col = torch.arange(w, dtype=torch.float64, device=device)
        if stretch_history:
            # the half-pixel centres of the coarse grid, in units of the current clip's grid
            row, col = (row + 0.5) * height / h - 0.5, (col + 0.5) * width / w - 0.5
        parts.append(torch.cartesian_prod(frame, row, col))  # [t h w, 3], the column varies fastest
        first += t  # absolute, as the released code counts: frame l is l, wherever its clip begins
    return TokenLayout(shapes, num_text, torch.cat(parts), first_frame)


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def shared_layout(layout: TokenLayout, context: ContextGroup) -> TokenLayout:
    """The part of a column's tokens that this process has: a share of the text and of every latent frame."""
    split = context.split((layout.num_text, *layout.frame_sizes()))
    num_text, *sizes = split.local_lengths
    shapes, frame = [], 0
    for t, _, _ in layout.shapes:
        shapes.append((t, 1, sizes[frame]))
        frame += t
    # padding stands at the origin, where it rotates nothing
    positions = split.share(layout.positions[None])[0]
    return TokenLayout(tuple(shapes), num_text, positions, layout.first_frame, split, layout)


def causal_mask(layout: TokenLayout) -> Tensor:
    """Bool ``[S, S]``: query q may attend to key k iff ``time(q) >= time(k)``; text counts as time 0.

    This is the rule; models keep it by `TokenLayout.causal_calls`.
    """
    time = layout.positions[:, 0]
    # text, at time 0, sees text and frame 0 alone, so that no history depends on what is denoised
    return time[:, None] >= time[None, :]


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def layout_rope(layout: TokenLayout, axes_dims: tuple[int, ...], theta: float = 10000.0) -> Tensor:
    """Rotary table of a column's tokens on (time, row, column): float32 ``[2, S, sum(axes_dims) / 2]``."""
    return rotary_table(layout.positions, axes_dims, theta)


def attention_mask(layout: TokenLayout, text_mask: Tensor | None, temporal_causal: bool) -> Tensor | None:
    """Which tokens may attend to which: bool ``[1 or R, 1, S, S]`` or None if all attend to all.

    Args:
        layout: the column's tokens.
        text_mask: bool ``[R, num_text]``, or None if no text token is padding. Padding attends only to padding.
        temporal_causal: apply the temporal rule.
    """
    allowed = causal_mask(layout)[None, None] if temporal_causal else None
    if text_mask is None:
        return allowed
    num_video = layout.positions.shape[0] - layout.num_text
    # [R, S]; video tokens are never padding
    real = torch.cat([text_mask, text_mask.new_ones(text_mask.shape[0], num_video)], dim=1)
    # Padding attends to itself instead of to nothing: a row without any allowed key would make the softmax NaN.
    same = (real[:, :, None] == real[:, None, :])[:, None]  # [R, 1, S, S]
    return same if allowed is None else same & allowed
