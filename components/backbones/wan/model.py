"""A Wan tower as parts: diffusers' own modules, driven block by block from outside.

The blocks, embedders and head are those of diffusers' ``WanTransformer3DModel`` under their public names; what is
ours is the order of calls, and a modulation that is computed once per latent frame instead of once per token. The
numbers are the same bit for bit; the modulation takes 1 / (tokens per frame) of the memory.

Legend: B rows, T latent frames, S tokens per frame, L = T S, D width, d channels per head, M text tokens, n time
segments of equal length (for video: n = T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from components.backbones.context_parallel import TokenSplit
from components.backbones.rope import wan_axis_dims
from components.backbones.wan.attention import wan_attention
from components.backbones.wan.normed_heads import RotaryTable
from components.contracts import TextFeatures
from components.errors import InputError

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class StreamInputs:
    """What every block of one tower receives beside the hidden states; the same for all blocks.

    Attributes:
        context: projected text ``[B, M, D]``.
        modulation: ``[B, n, 6, D]``, one set per segment.
        noise: timestep embedding ``[B, D]`` of the part that is generated.
        rope: rotary table of the tokens.
        context_mask: bool ``[B, 1, 1, M]``, or None to attend to all text.
        token_mask: bool ``[B, 1, 1, L]``, or None to attend to all tokens.
        lengths: tokens of each of the n segments, or None where all are as long.
        split: how the sequence is shared among processes; hidden states, ``rope`` and ``lengths`` are then of this
            process's tokens.
    """

    context: Tensor
    modulation: Tensor
    noise: Tensor
    rope: RotaryTable
    context_mask: Tensor | None = None
    token_mask: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    split: TokenSplit | None = None


_pytree.register_dataclass(StreamInputs)  # sharding looks for tensors that need gradients in pytrees


def run_block(block: nn.Module, hidden: Tensor, inputs: StreamInputs) -> Tensor:
    """One Wan block on tokens ``[B, L, D]``; equals calling it with the modulation repeated for every token."""
    wan = cast(Any, block)
    # float32 as in diffusers: every token is scaled by it
    table = wan.scale_shift_table.unsqueeze(0) + inputs.modulation.float()
    shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = table.unbind(2)  # [B, n, D]

    def modulated(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return _by_segment(norm(x.float()), 1 + scale, shift, inputs.lengths).type_as(x)

    def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        return _by_segment(update, gate, x, inputs.lengths).type_as(x)

    # diffusers' ``WanTransformerBlock.forward``, cast by cast: every float32 and ``type_as`` below is theirs
    # 1. self-attention
    x = modulated(wan.norm1, hidden, scale_attn, shift_attn)
    update = wan_attention(wan.attn1, x, None, inputs.token_mask, inputs.rope, inputs.split)
    hidden = gated(hidden, update, gate_attn)
    # 2. text attention; its update has no gate
    x = wan.norm2(hidden.float()).type_as(hidden)
    hidden = hidden + wan_attention(wan.attn2, x, inputs.context, inputs.context_mask, None)
    # 3. feed-forward network
    x = modulated(wan.norm3, hidden, scale_ffn, shift_ffn)
    return gated(hidden, wan.ffn(x).float(), gate_ffn)


def _by_segment(x: Tensor, factor: Tensor, term: Tensor, lengths: tuple[int, ...] | None) -> Tensor:
    """``x * factor + term`` of tokens ``[B, L, D]`` with one factor ``[B, D]`` for each of n segments.

    The factors broadcast over the tokens of a segment, where diffusers repeats them for each. The term is either of the
    segments, ``[B, n, D]``, or of the tokens, and is added in the product's own memory.
    """
    of_tokens = term.shape == x.shape
    if lengths is None:
        segments = (factor.shape[1], -1)
        term = torch.unflatten(term, 1, segments) if of_tokens else term.unsqueeze(2)
        out = torch.unflatten(x, 1, segments) * factor.unsqueeze(2)  # [B, n, S, D]
        return out.add_(term).flatten(1, 2)
    tokens, one_each = list(lengths), [1] * len(lengths)
    terms = torch.split(term, tokens if of_tokens else one_each, dim=1)
    parts = zip(torch.split(x, tokens, dim=1), torch.split(factor, one_each, dim=1), terms, strict=True)
    return torch.cat([(part * factor).add_(term) for part, factor, term in parts], dim=1)


class WanTower(nn.Module):
    """A Wan transformer taken apart. The defaults are the public TI2V-5B's.

    Its tensors carry the names of diffusers' ``WanTransformer3DModel``. `HarmonyTransformer` takes the blocks out and
    runs them; a tower has no ``forward`` of its own.

    Args:
        num_layers: blocks.
        num_attention_heads: heads per block.
        attention_head_dim: channels per head; their product is the width D.
        ffn_dim: hidden width of the feed-forward networks.
        in_channels: channels of the noisy latents.
        out_channels: channels of the velocity.
        text_dim: width of the encoded text.
        freq_dim: channels of the sinusoidal timestep embedding.
        patch_size: latent frames, rows and columns per token; one frame.
        cross_attn_norm: normalise before the text attention.
        qk_norm: as in diffusers; ``rms_norm_across_heads`` is the only kind Wan has.
        eps: epsilon of all norms.
        text_len: the text is padded with zeros to this many tokens, which are then attended to like any others, as in
            the released model; null takes the text as it comes and hides its padding.

    Attributes:
        dim: width D.
        config: the arguments.
    """

    def __init__(
        self,
        num_layers: int = 30,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        ffn_dim: int = 14336,
        in_channels: int = 48,
        out_channels: int = 48,
        text_dim: int = 4096,
        freq_dim: int = 256,
        patch_size: Sequence[int] = (1, 2, 2),
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        text_len: int | None = 512,
    ) -> None:
        super().__init__()
        from diffusers import WanTransformer3DModel

        if len(patch_size) != 3 or patch_size[0] != 1:
            raise ValueError(f"patch_size is {list(patch_size)}: give [1, rows, columns], as timesteps are per frame")
        wan = {
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "attention_head_dim": attention_head_dim,
            "ffn_dim": ffn_dim,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "text_dim": text_dim,
            "freq_dim": freq_dim,
            "patch_size": tuple(patch_size),
            "cross_attn_norm": cross_attn_norm,
            "qk_norm": qk_norm,
            "eps": eps,
        }
        # diffusers' modules, taken out of their model; the model itself is dropped
        stock: Any = WanTransformer3DModel(**wan, rope_max_seq_len=1)  # its rotary table is not used: `video_rope`
        self.config: dict[str, Any] = {**wan, "patch_size": list(patch_size), "text_len": text_len}
        self.dim = num_attention_heads * attention_head_dim
        self.head_dim = attention_head_dim
        self.text_len = text_len
        self.patch_size: Grid = (1, patch_size[1], patch_size[2])
        self.patch_embedding: nn.Module = stock.patch_embedding
        self.condition_embedder = stock.condition_embedder
        self.blocks: nn.ModuleList = stock.blocks
        self.norm_out = stock.norm_out
        self.proj_out = stock.proj_out
        self.scale_shift_table = stock.scale_shift_table

    @property
    def dtype(self) -> torch.dtype:
        """What the tower computes in."""
        dtype: torch.dtype = self.proj_out.weight.dtype
        return dtype

    def grid(self, latents: Tensor) -> Grid:
        """Frames, patch rows and patch columns of latents ``[B, C, T, h, w]``.

        Raises:
            ValueError: if the sides are not multiples of the patch.
        """
        _, _, num_frames, height, width = latents.shape
        _, rows, columns = self.patch_size
        if height % rows or width % columns:
            raise ValueError(f"latents of {height}x{width} cannot be cut into {rows}x{columns} patches")
        return num_frames, height // rows, width // columns

    def embed(self, latents: Tensor) -> Tensor:
        """Latents ``[B, C, T, h, w]`` to tokens ``[B, L, D]``, frame by frame, row by row."""
        patches: Tensor = self.patch_embedding(latents.to(self.dtype))  # [B, D, T, rows, columns]
        return patches.flatten(2).transpose(1, 2).contiguous()

    def condition(self, timesteps: Tensor, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps and text as the blocks want them.

        Args:
            timesteps: ``[B, n]`` from 0 (clean) to 1000 (noise), one per segment.
            text: encoded prompts.

        Returns:
            timestep embeddings ``[B, n, D]``, modulation ``[B, n, 6, D]``, context ``[B, M, D]``.
        """
        tokens = wan_text(text, self.text_len).to(self.dtype)
        embedder = self.condition_embedder
        # None: no image context. Given n, diffusers returns [B, n, ...] for the flattened timesteps
        embedding, modulation, context, _ = embedder(timesteps.flatten(), tokens, None, timesteps.shape[1])
        return embedding, modulation.unflatten(2, (6, -1)), context

    def visible(self, text: TextFeatures) -> Tensor | None:
        """Bool ``[B, 1, 1, M]``, text tokens that are attended to; None where all are, padding included."""
        return text.mask.bool()[:, None, None] if self.text_len is None else None

    def read_out(self, hidden: Tensor, embedding: Tensor, grid: Grid, split: TokenSplit | None = None) -> Tensor:
        """Tokens ``[B, L, D]`` and timestep embeddings ``[B, n, D]`` to the velocity ``[B, C, T, h, w]``.

        Where the tokens are shared among processes, ``hidden`` has this one's, and all get the whole velocity.
        """
        # [B, n, 1, D] each: the head has a table of two where blocks have six
        shift, scale = (self.scale_shift_table.unsqueeze(0) + embedding.unsqueeze(2)).unsqueeze(3).unbind(2)
        x = self.norm_out(hidden.float()).unflatten(1, (embedding.shape[1], -1)) * (1 + scale) + shift
        x = self.proj_out(x.flatten(1, 2).type_as(hidden))
        x = x if split is None else split.gather(x)
        x = x.unflatten(2, (*self.patch_size, -1)).unflatten(1, grid)  # [B, T, rows, columns, 1, p, q, C]
        # [B, C, T 1, rows p, columns q]: patch sides beside the grid's, then merged
        velocity: Tensor = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return velocity


def wan_text(text: TextFeatures, length: int | None) -> Tensor:
    """Text as Wan was trained on it: padding is zeroed *after* encoding and then attended to like real tokens.

    Raises:
        InputError: if there are more than ``length`` tokens.
    """
    tokens = text.tokens * text.mask.unsqueeze(-1).to(text.tokens.dtype)
    if length is None:
        return tokens
    if tokens.shape[1] > length:
        raise InputError(
            f"a prompt has {tokens.shape[1]} tokens but text_len of the tower is {length}: shorten the prompt or raise "
            "text_len."
        )
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def video_rope(grid: Grid, head_dim: int, device: torch.device) -> RotaryTable:
    """Wan's own table: whole positions on the axes time, row and column."""
    # on the CPU even where a model is tried on the meta device: the cache would keep an empty table
    with torch.device("cpu"):
        return rotary_grid([torch.arange(side, dtype=torch.float64) for side in grid], head_dim, device)


def rotary_grid(axes: Sequence[Tensor], head_dim: int, device: torch.device) -> RotaryTable:
    """Rotary table of a grid whose rows, columns and times stand at ``axes`` (time, row, column; float64)."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    sides = [len(axis) for axis in axes]
    cosines, sines = [], []
    for i, (axis, channels) in enumerate(zip(axes, wan_axis_dims(head_dim), strict=True)):
        # float64 until the table is made: the angles of late positions need it
        cos, sin = get_1d_rotary_pos_embed(channels, cast(Any, axis), use_real=True, freqs_dtype=torch.float64)
        view = [side if j == i else 1 for j, side in enumerate(sides)]
        # each axis along its own side, repeated over the others; [T, rows, columns, channels]
        cosines.append(cos.view(*view, channels).expand(*sides, channels))
        sines.append(sin.view(*view, channels).expand(*sides, channels))
    cos, sin = (torch.cat(parts, dim=-1).reshape(1, -1, 1, head_dim).to(device) for parts in (cosines, sines))
    return RotaryTable(cos, sin)
