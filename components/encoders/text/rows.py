"""Text features of single prompts, and batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from components.contracts import TextFeatures


@dataclass(frozen=True)
class TextRow:
    """One prompt: its real tokens ``[m, D]`` (no padding) and its pooled vector ``[P]``, or None."""

    tokens: Tensor
    pooled: Tensor | None = None

    def to(self, device: torch.device | str) -> TextRow:
        """The same row on ``device``."""
        return TextRow(self.tokens.to(device), None if self.pooled is None else self.pooled.to(device))


def split_rows(features: TextFeatures) -> list[TextRow]:
    """The prompts of a batch without their padding, as copies, so that no row keeps the batch alive."""
    pooled = [None] * len(features.tokens) if features.pooled is None else features.pooled.unbind()
    rows = []
    texts = zip(features.tokens, features.mask, features.spans, pooled, strict=True)
    for tokens, mask, (end, count), vector in texts:
        # padding stands behind, as a rule; indexing by a mask copies too, but waits for the device
        real = tokens[:end].clone() if end == count else tokens[mask.bool()]
        rows.append(TextRow(real, None if vector is None else vector.clone()))
    return rows


def stack_rows(rows: Sequence[TextRow], length: int = 0) -> TextFeatures:
    """A batch of at least ``length`` token positions; padding is zero and masked out.

    The transformers let padding see padding only, so its values never reach a video.
    """
    tokens = pad_sequence([row.tokens for row in rows], batch_first=True)
    if tokens.shape[1] < length:
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
    lengths = [len(row.tokens) for row in rows]
    # the mask is made on the CPU, where the lengths are known without waiting for the device
    mask = (torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]).to(tokens.device, non_blocking=True)
    pooled = [row.pooled for row in rows if row.pooled is not None]
    spans = tuple((length, length) for length in lengths)
    return TextFeatures(tokens, mask, torch.stack(pooled) if pooled else None, spans)


def emptied_rows(features: TextFeatures, empty: TextFeatures | None, dropped: Tensor) -> TextFeatures:
    """Prepared texts, the empty one in place of those that are dropped, padded as if they were encoded together.

    Args:
        features: of B texts, their padding behind them.
        empty: of the empty text, one row that is as long as its encoder makes every text at least; None if none is
            dropped.
        dropped: bool ``[B]``.
    """
    if empty is None:
        return features
    null = _cut(empty, 0)
    rows = [null if drop else _cut(features, row) for row, drop in enumerate(dropped.tolist())]
    return stack_rows(rows, empty.tokens.shape[1])


def _cut(features: TextFeatures, row: int) -> TextRow:
    _, length = features.spans[row]
    return TextRow(features.tokens[row, :length], None if features.pooled is None else features.pooled[row])


def stack_text(*batches: TextFeatures) -> TextFeatures:
    """The rows of all batches, one batch behind the other; shorter ones are padded with masked tokens.

    The pooled vectors are kept if every batch has them.
    """
    length = max(features.tokens.shape[1] for features in batches)
    tokens, masks = [], []
    for features in batches:
        extra = length - features.tokens.shape[1]
        tokens.append(torch.nn.functional.pad(features.tokens, (0, 0, 0, extra)))
        masks.append(torch.nn.functional.pad(features.mask, (0, extra)))
    pooled = [features.pooled for features in batches if features.pooled is not None]
    known = [features.known_spans for features in batches if features.known_spans is not None]
    return TextFeatures(
        torch.cat(tokens),
        torch.cat(masks),
        torch.cat(pooled) if len(pooled) == len(batches) else None,
        tuple(span for spans in known for span in spans) if len(known) == len(batches) else None,
    )
