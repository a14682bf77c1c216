"""The layer by which both towers of Synchformer turn a row of tokens into one.

Metrics specification, section 4; parameter names are those of the public checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6


class TokenAggregation(nn.TransformerEncoderLayer):
    """One pre-norm transformer layer over a learned token and the row; what the learned token becomes is the result.

    Args:
        dim: D, width of the tokens.
        num_heads: heads of the attention.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(
            dim,
            num_heads,
            dim_feedforward=4 * dim,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=LAYER_NORM_EPS,
            batch_first=True,
            norm_first=True,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))

    def aggregate(self, rows: Tensor) -> Tensor:
        """Rows of tokens ``[N, M, D]`` to ``[N, D]``."""
        tokens = torch.cat([self.cls_token.expand(len(rows), -1, -1), rows], dim=1)
        result: Tensor = self(tokens)[:, 0]
        return result
