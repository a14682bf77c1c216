"""What travels through the blocks for every column, and how several columns go through one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from components.backbones.pyramid_flow.column import TokenLayout, attention_mask
from components.backbones.pyramid_flow.memory import ColumnMemory


@dataclass(frozen=True)
class ColumnState:
    """What travels through the blocks for one column.

    Attributes:
        tokens: ``[R, S, D]``, text tokens first.
        condition: ``[R, D]`` timestep and pooled text; it modulates all tokens of the column alike.
        layout: where the tokens sit.
        rope: ``[2, S, d / 2]`` rotary table.
        text_mask: bool ``[R, M]``, False where a text token is padding; None if none is.
        temporal_causal: tokens see their own and earlier latent frames alone.
        memory: keys and values of text and frames in front of those of ``tokens``, or None.
    """

    tokens: Tensor
    condition: Tensor
    layout: TokenLayout
    rope: Tensor
    text_mask: Tensor | None
    temporal_causal: bool
    memory: ColumnMemory | None = None

    @property
    def mask(self) -> Tensor | None:
        """Which tokens may see which, as one matrix (`attention_mask`), without memory; blocks never build it."""
        return attention_mask(self.layout.everything or self.layout, self.text_mask, self.temporal_causal)

    def with_tokens(self, tokens: Tensor) -> ColumnState:
        """The same column with other token values."""
        return replace(self, tokens=tokens)

    def with_last_tokens(self, tokens: Tensor) -> ColumnState:
        """The same column with other values of its last tokens ``[R, Q, D]``, which may be all."""
        before = self.tokens.shape[1] - tokens.shape[1]
        return self.with_tokens(torch.cat([self.tokens[:, :before], tokens], dim=1) if before else tokens)

    def rows(self, index: Tensor) -> ColumnState:
        """The column with its rows gathered by ``index`` (rows may repeat)."""
        mask = None if self.text_mask is None else self.text_mask[index]
        return replace(self, tokens=self.tokens[index], condition=self.condition[index], text_mask=mask)


# Sharding finds the tensors a block takes and gives by flattening its arguments; a class that it does not know would be
# passed over, and the block's weights would be gone when the backward pass needs them.
register_dataclass(ColumnState)


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Columns ``[R_c, S_c, D]`` behind each other: ``[sum of R_c S_c, D]``, a view where there is one."""
    flat = [part.flatten(0, 1) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `pack`, by the rows and tokens of ``like``: views ``[R_c, S_c, ...]``."""
    shapes = [part.shape[:2] for part in like]
    # `split` and no slices: their gradients would each fill the whole tensor with zeros
    parts = packed.split([rows * tokens for rows, tokens in shapes])
    return [torch.unflatten(part, 0, shape) for part, shape in zip(parts, shapes, strict=True)]


def packed_rope(ropes: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """Rotary table ``[2, sum of R_c S_c, 1, d / 2]`` of what `pack` makes of ``like``.

    Args:
        ropes: of every column ``[2, S, d / 2]``, of its last tokens at least.
        like: ``[R_c, S_c, ...]`` each: those last tokens.
    """
    tables = []
    for rope, part in zip(ropes, like, strict=True):
        rows, tokens = part.shape[:2]
        table = rope[:, rope.shape[1] - tokens :]
        tables.append(table if rows == 1 else table.repeat(1, rows, 1))  # one behind the other, as rows are packed
    return (tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)).unsqueeze(2)


def last_tokens(x: Tensor, count: int) -> Tensor:
    """The last ``count`` tokens of ``[R, S, ...]``."""
    # `split`: see `unpack`
    return x if x.shape[1] == count else x.split([x.shape[1] - count, count], dim=1)[1]
