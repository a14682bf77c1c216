"""The parts Pyramid Flow's transformers are made of: conditioning, modulation, joint and single blocks.

Sub-module names are those of the public checkpoints. Legend: R rows, S tokens (text first, then video), D width,
H heads, d channels per head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.backbones.pyramid_flow.attention import JointAttention, SelfAttention
from components.backbones.pyramid_flow.state import ColumnState, last_tokens, pack, packed_rope, unpack
from components.backbones.rope import rotate


class Block(nn.Module, ABC):
    """A block runs all columns in one call, so that a sharded block gathers its weights once.

    What treats every token alike (projections, norms, the MLP) runs on the tokens of all columns behind each other: a
    column of a training step has few tokens at the coarse stages, and a product of its own for each would cost a GPU
    more in launches than in arithmetic. Modulation and attention are each column's own.
    """

    @abstractmethod
    def forward(self, states: Sequence[ColumnState], current_only: bool = False) -> list[ColumnState]:
        """Every column through the block; columns do not influence each other.

        Args:
            states: the columns.
            current_only: change the tokens of every last clip alone, and let the others be no more than keys and
                values: of what the last block gives, nothing else is read.
        """


class MLPEmbedder(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, in_dim]`` to ``[R, dim]``."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class TimeTextEmbedding(nn.Module):
    """Condition vector: MLP of the timestep's sinusoid plus MLP of the pooled text."""

    def __init__(self, dim: int, pooled_dim: int, sinusoid_dim: int = 256) -> None:
        super().__init__()
        self.sinusoid_dim = sinusoid_dim
        self.timestep_embedder = MLPEmbedder(sinusoid_dim, dim)
        self.text_embedder = MLPEmbedder(pooled_dim, dim)

    def forward(self, timesteps: Tensor, pooled: Tensor) -> Tensor:
        """Timesteps ``[R]`` (0-1000) and pooled text ``[R, P]`` to ``[R, D]``."""
        # float32 up to here: bfloat16 would round timesteps of 512 and more to multiples of 4
        sinusoid = timestep_sinusoid(timesteps, self.sinusoid_dim).to(pooled.dtype)
        condition: Tensor = self.timestep_embedder(sinusoid) + self.text_embedder(pooled)
        return condition


def timestep_sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Float32 ``[R, dim]``: cosines first, then sines, frequencies ``10000^(-i / (dim / 2))``; t is not rescaled."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half)
    angle = timesteps.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Modulation(nn.Module):
    """``chunks`` modulation vectors per row from the condition vector."""

    def __init__(self, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(dim, chunks * dim)
        nn.init.zeros_(self.linear.weight)  # gates of zero: a fresh block is the identity (adaLN-Zero)
        nn.init.zeros_(self.linear.bias)

    def columns(self, states: Sequence[ColumnState]) -> list[tuple[Tensor, ...]]:
        """`forward` of every column's condition, in one product."""
        rows = [len(state.condition) for state in states]
        chunks = self(states[0].condition if len(states) == 1 else torch.cat([state.condition for state in states]))
        return list(zip(*(chunk.split(rows) for chunk in chunks), strict=True))

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """``[R, D]`` to ``chunks`` tensors ``[R, 1, D]`` that broadcast over the tokens."""
        # History and text are modulated by the current timestep too. Broadcast, not expanded to every token: at 4,600
        # tokens the copies would take about 1.8 GB of bfloat16 activations in miniFLUX.
        vectors: Tensor = self.linear(F.silu(condition))
        return vectors.unsqueeze(1).chunk(self.chunks, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without affine (eps 1e-6) of ``[R, S, D]``, scaled and shifted per row."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class _Projection(nn.Module):
    """A linear layer one level down, where the checkpoints keep it."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class FeedForward(nn.Module):
    """Linear to 4 D, tanh-GELU, linear back; keys ``net.0.proj`` and ``net.2`` as in the checkpoints."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # the checkpoints count a dropout as entry 1
        self.net = nn.ModuleList([_Projection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., D]``."""
        expand, _, contract = self.net
        out: Tensor = contract(F.gelu(expand(x), approximate="tanh"))
        return out


class JointBlock(Block):
    """Text and video each with their own weights, joined in the attention.

    Args:
        dim: width D.
        heads: heads H.
        norm_eps: epsilon of the query and key norms.
        text_norm_names: see `JointAttention`.
        last: the text side ends with the attention (SD3's last block).
    """

    def __init__(
        self, dim: int, heads: int, norm_eps: float, text_norm_names: tuple[str, str], last: bool = False
    ) -> None:
        super().__init__()
        self.last = last
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 2 if last else 6)
        self.attn = JointAttention(dim, heads, norm_eps, text_norm_names, text_output=not last)
        self.ff = FeedForward(dim)
        # the last text tokens are thrown away: SD3 has no text feed-forward network there
        if not last:
            self.ff_context = FeedForward(dim)

    def forward(self, states: Sequence[ColumnState], current_only: bool = False) -> list[ColumnState]:
        """Every column through the block; a last block leaves the text tokens as they are."""
        parts = [s.tokens.split([s.layout.num_text, s.tokens.shape[1] - s.layout.num_text], dim=1) for s in states]
        texts, videos = [text for text, _ in parts], [video for _, video in parts]
        # The order of the chunks is that of the public weights.
        of_video, of_text = self.norm1.columns(states), self.norm1_context.columns(states)
        if self.last:
            # scale before shift, as in the final norm and unlike elsewhere
            of_text = [(shift, scale) for scale, shift in of_text]
        seen_texts, seen_videos = _modulated(texts, of_text), _modulated(videos, of_video)
        asked_texts, asked_videos = seen_texts, seen_videos
        if current_only:
            # No text token at all: all weights of its side stay in the graph, with gradients of zero.
            texts, asked_texts = ([x[:, :0] for x in of_column] for of_column in (texts, seen_texts))
            videos, asked_videos = (_current(x, states) for x in (videos, seen_videos))
        text_out, video_out = self.attn(seen_texts, seen_videos, asked_texts, asked_videos, states)
        videos = _gated(videos, unpack(video_out, videos), [m[2] for m in of_video])
        mlp_out = self.ff(pack(_modulated(videos, [m[3:5] for m in of_video])))
        videos = _gated(videos, unpack(mlp_out, videos), [m[5] for m in of_video])
        if not self.last:
            texts = _gated(texts, unpack(text_out, texts), [m[2] for m in of_text])
            mlp_out = self.ff_context(pack(_modulated(texts, [m[3:5] for m in of_text])))
            texts = _gated(texts, unpack(mlp_out, texts), [m[5] for m in of_text])
        both = zip(states, texts, videos, strict=True)
        return [state.with_last_tokens(torch.cat([text, video], dim=1)) for state, text, video in both]


class SingleBlock(Block):
    """One stream for text and video; attention and MLP run in parallel (miniFLUX)."""

    def __init__(self, dim: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = Modulation(dim, 3)
        self.attn = SelfAttention(dim, heads, norm_eps)
        self.proj_mlp = nn.Linear(dim, 4 * dim)
        # attention D and hidden 4 D side by side through one matrix, as in FLUX
        self.proj_out = nn.Linear(5 * dim, dim)

    def forward(self, states: Sequence[ColumnState], current_only: bool = False) -> list[ColumnState]:
        """Every column through the block."""
        tokens, modulations = [state.tokens for state in states], self.norm.columns(states)
        seen = _modulated(tokens, modulations)
        asked = packed = pack(seen)
        if current_only:
            tokens, asked = _current(tokens, states), pack(_current(seen, states))
        hidden = F.gelu(self.proj_mlp(asked), approximate="tanh")
        ropes = [state.rope for state in states]
        rope = packed_rope(ropes, seen)
        keys, values = self.attn.keys_values(packed)
        k, v = unpack(rotate(keys, rope), seen), unpack(values, seen)
        queries = rotate(self.attn.queries(asked), packed_rope(ropes, tokens) if current_only else rope)
        attended = self.attn.attend(unpack(queries, tokens), k, v, states)
        out = unpack(self.proj_out(torch.cat([attended, hidden], dim=-1)), tokens)  # of [sum of R S, 5 D]
        changed = _gated(tokens, out, [gate for _, _, gate in modulations])
        return [state.with_last_tokens(new) for state, new in zip(states, changed, strict=True)]


def _current(parts: Sequence[Tensor], states: Sequence[ColumnState]) -> list[Tensor]:
    """Of every column the tokens of the clip being denoised."""
    return [last_tokens(part, state.layout.num_current) for part, state in zip(parts, states, strict=True)]


def _modulated(parts: Sequence[Tensor], modulations: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Every column's tokens under its own shift and scale, the first two of its modulation vectors."""
    return [modulate(part, *vectors[:2]) for part, vectors in zip(parts, modulations, strict=True)]


def _gated(parts: Sequence[Tensor], changes: Sequence[Tensor], gates: Sequence[Tensor]) -> list[Tensor]:
    return [part + gate * change for part, change, gate in zip(parts, changes, gates, strict=True)]
