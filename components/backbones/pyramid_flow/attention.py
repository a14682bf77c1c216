"""Self-attention of Pyramid Flow's blocks: every column by itself, frame by frame, behind what earlier units left.

Sub-module names are those of the public checkpoints. Legend: R rows, S tokens (text first, then video), D width,
H heads, d channels per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.backbones.attention_kernel import attention_dtypes, prefix_attention
from components.backbones.pyramid_flow.state import ColumnState, pack, packed_rope, unpack
from components.backbones.rms_norm import rms_norm
from components.backbones.rope import rotate


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[..., H d]`` to ``[..., H, d]``."""
    return torch.unflatten(x, -1, (heads, -1))


class SelfAttention(nn.Module):
    """Query, key and value projections with learned RMS norm per head."""

    def __init__(self, dim: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim // heads, eps=norm_eps)
        self.norm_k = nn.RMSNorm(dim // heads, eps=norm_eps)

    def queries(self, x: Tensor) -> Tensor:
        """``[..., D]`` to normalised queries ``[..., H, d]``."""
        return rms_norm(self.norm_q, split_heads(self.to_q(x), self.heads))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., D]`` to normalised keys and values, each ``[..., H, d]``."""
        k, v = (split_heads(to(x), self.heads) for to in (self.to_k, self.to_v))
        return rms_norm(self.norm_k, k), v

    # Not compiled: its calls differ with every length of a clip, and each would be another graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's own
    def attend(
        self, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], states: Sequence[ColumnState]
    ) -> Tensor:
        """Attention under every column's rule, heads merged.

        Args:
            queries: of every column ``[R, Q, H, d]``, rotated: of all tokens, or of those of the last clip.
            keys: ``[R, S, H, d]``, rotated.
            values: ``[R, S, H, d]``.
            states: the columns.

        Returns:
            Of all columns, packed, ``[sum of R Q, H d]``.
        """
        return pack([self._attended(*of_column) for of_column in zip(queries, keys, values, states, strict=True)])

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, state: ColumnState) -> Tensor:
        layout, asked, known = state.layout, q.shape[1], 0
        current_only, of_queries = asked < k.shape[1], None
        if layout.split is not None and layout.everything is not None:
            # as they are attended to, and no wider: all tokens, and this process's heads
            q, k = (x.to(attention_dtypes(v.dtype, v.device)[0]) for x in (q, k))
            frames = layout.shapes[-1][0]
            of_queries = layout.split.last(frames) if current_only else layout.split
            q, k, v = of_queries.to_heads(q), layout.split.to_heads(k), layout.split.to_heads(v)
            layout, asked = layout.everything, q.shape[1]
        if state.memory is not None:
            known = state.memory.tokens
            k, v = state.memory.extended(self, k, v)
        key_mask = None
        if state.text_mask is not None:
            # By the rule padding sees padding alone. Here it sees what all see, because nobody sees it.
            key_mask = F.pad(state.text_mask, (0, k.shape[1] - state.text_mask.shape[1]), value=True)
        calls = [(asked, k.shape[1])]
        if state.temporal_causal:
            calls = layout.causal_calls(known, current_only)
        out = prefix_attention(q, k, v, calls, key_mask)
        return (out if of_queries is None else of_queries.to_tokens(out)).flatten(2)


class JointAttention(SelfAttention):
    """Attention over [text, video] with separate projections for text.

    Args:
        dim: width D.
        heads: heads H.
        norm_eps: epsilon of the RMS norms (miniFLUX 1e-6, SD3 1e-5).
        text_norm_names: names of the text query and key norms; the two public variants spell them differently.
        text_output: False in a last block whose text side ends with the attention.
    """

    def __init__(
        self, dim: int, heads: int, norm_eps: float, text_norm_names: tuple[str, str], text_output: bool = True
    ) -> None:
        super().__init__(dim, heads, norm_eps)
        self.add_q_proj = nn.Linear(dim, dim)
        self.add_k_proj = nn.Linear(dim, dim)
        self.add_v_proj = nn.Linear(dim, dim)
        self.text_norm_names = text_norm_names
        for name in text_norm_names:
            self.add_module(name, nn.RMSNorm(dim // heads, eps=norm_eps))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, because the checkpoints' key is to_out.0
        self.to_add_out = nn.Linear(dim, dim) if text_output else None

    def text_queries(self, x: Tensor) -> Tensor:
        """As `queries`, for text tokens."""
        return rms_norm(self.get_submodule(self.text_norm_names[0]), split_heads(self.add_q_proj(x), self.heads))

    def text_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `keys_values`, for text tokens."""
        k, v = (split_heads(to(x), self.heads) for to in (self.add_k_proj, self.add_v_proj))
        return rms_norm(self.get_submodule(self.text_norm_names[1]), k), v

    def forward(
        self,
        texts: Sequence[Tensor],
        videos: Sequence[Tensor],
        asked_texts: Sequence[Tensor],
        asked_videos: Sequence[Tensor],
        states: Sequence[ColumnState],
    ) -> tuple[Tensor | None, Tensor]:
        """Packed outputs for text (None in a last block) and video.

        Args:
            texts: of every column ``[R, M, D]``, what becomes keys and values.
            videos: of every column ``[R, N, D]``.
            asked_texts: those of the text tokens that are queries.
            asked_videos: those of the video tokens.
            states: the columns.
        """
        # Video alone is rotated: text stands at the origin (`token_layout`), where rotation changes nothing.
        ropes = [state.rope for state in states]
        rope = packed_rope(ropes, videos)
        asked_rope = rope if asked_videos is videos else packed_rope(ropes, asked_videos)
        queries = rotate(self.queries(pack(asked_videos)), asked_rope)
        keys, values = self.keys_values(pack(videos))
        keys = rotate(keys, rope)
        text_keys, text_values = self.text_keys_values(pack(texts))
        # [R, M + N, H, d] each, text first as in `TokenLayout`
        queries_by_column = _joined(self.text_queries(pack(asked_texts)), queries, asked_texts, asked_videos)
        keys_by_column = _joined(text_keys, keys, texts, videos)
        values_by_column = _joined(text_values, values, texts, videos)
        joint = self.attend(queries_by_column, keys_by_column, values_by_column, states)
        text_outs, video_outs = [], []
        for attended, text in zip(unpack(joint, queries_by_column), asked_texts, strict=True):
            m = text.shape[1]
            of_text, of_video = attended.split([m, attended.shape[1] - m], dim=1)
            text_outs.append(of_text)
            video_outs.append(of_video)
        text_out = None if self.to_add_out is None else self.to_add_out(pack(text_outs))
        return text_out, self.to_out[0](pack(video_outs))


def _joined(text: Tensor, video: Tensor, texts: Sequence[Tensor], videos: Sequence[Tensor]) -> list[Tensor]:
    """Text and video of every column behind each other, from what was computed of all texts and of all videos."""
    parts = zip(unpack(text, texts), unpack(video, videos), strict=True)
    return [torch.cat(pair, dim=1) for pair in parts]
