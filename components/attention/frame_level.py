"""RoPE-aligned frame-level attention: one stream listens to (or watches) the other around the same moment.

Source: Harmony, "RoPE-aligned Frame-level Attention". Queries and keys are rotated by their positions on one clock;
every video latent attends to a window of the audio tokens, and every audio token to the same window read backwards.

Legend: B rows, T steps in time, S tokens per step (video: one latent's patches; audio: 1), L = T S, D width of a
stream, W width of the attention, H heads, d = W / H.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from components.attention.frame_band import FrameBand
from components.attention.rope import rotate

Gate = Literal["none", "source", "both"]


class NoiseGate(nn.Module):
    """A factor per head, ``1 + U emb(t)``, from how noisy the streams are; U starts at zero.

    Args:
        heads: H.
        source_dim: width of the source's timestep embedding.
        query_dim: width of the query stream's timestep embedding, or None to look at the source's alone.
    """

    def __init__(self, heads: int, source_dim: int, query_dim: int | None) -> None:
        super().__init__()
        self.from_source = nn.Linear(source_dim, heads, bias=False)
        self.from_query = None if query_dim is None else nn.Linear(query_dim, heads, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All gates open."""
        for layer in (self.from_source, self.from_query):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """Timestep embeddings ``[B, D]`` of both streams to factors ``[B, H]``."""
        gate = 1 + self.from_source(source.to(self.from_source.weight.dtype))
        if self.from_query is not None:
            gate = gate + self.from_query(query.to(self.from_query.weight.dtype))
        return gate


class FrameLevelAttention(nn.Module):
    """One direction. Its output projection starts at zero, so that a fresh layer changes nothing.

    Args:
        query_dim: width of the stream that is changed.
        source_dim: width of the stream that is attended to.
        width: W, width of queries, keys and values.
        heads: H.
        gate: factor per head from the noise level of the ``source``, of ``both`` streams, or ``none``.
        eps: epsilon of all norms.
    """

    def __init__(
        self, query_dim: int, source_dim: int, width: int, heads: int, gate: Gate = "source", eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(query_dim, eps=eps)
        self.norm_source = nn.LayerNorm(source_dim, eps=eps)
        self.to_q = nn.Linear(query_dim, width)
        self.to_k = nn.Linear(source_dim, width)
        self.to_v = nn.Linear(source_dim, width)
        self.norm_q = nn.RMSNorm(width, eps=eps)
        self.norm_k = nn.RMSNorm(width, eps=eps)
        self.to_out = nn.Linear(width, query_dim)
        self.gate = None if gate == "none" else NoiseGate(heads, source_dim, query_dim if gate == "both" else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Closes the output; the other layers reset themselves."""
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (normalised, not rotated) and values ``[B, H, L, d]`` of the source's tokens ``[B, L, D]``."""
        source = self.norm_source(source.to(self.norm_source.weight.dtype))  # towers may differ in precision
        return self._heads(self.norm_k(self.to_k(source))), self._heads(self.to_v(source))

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, band: FrameBand, noise: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What the source adds to the query stream.

        Args:
            query: tokens ``[B, L_q, D]`` of the stream that is changed.
            keys: from `keys_values`.
            values: from `keys_values`.
            band: who attends to whom, and the rotary tables.
            noise: timestep embeddings ``[B, D]`` of the query stream and of the source.

        Returns:
            ``[B, L_q, D]``.
        """
        query = self.norm_query(query.to(self.norm_query.weight.dtype))
        q = _rotated(self._heads(self.norm_q(self.to_q(query))), band.query_rope).to(values.dtype)
        out = band.attend(q, _rotated(keys, band.key_rope).to(values.dtype), values)
        if self.gate is not None:
            out = out * self.gate(source=noise[1], query=noise[0]).to(out.dtype)[:, :, None, None]
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _rotated(x: Tensor, table: Tensor | None) -> Tensor:
    """Heads ``[B, H, T S, d]`` with their first ``2 n`` channels rotated by ``[2, T, 1 or S, n]``; the rest passes."""
    if table is None:
        return x
    num_steps, num_rotated = table.shape[1], 2 * table.shape[-1]
    steps = x.unflatten(2, (num_steps, -1))
    rotated = rotate(steps[..., :num_rotated], table)
    if num_rotated < x.shape[-1]:
        rotated = torch.cat([rotated.to(x.dtype), steps[..., num_rotated:]], dim=-1)
    return rotated.flatten(2, 3)
