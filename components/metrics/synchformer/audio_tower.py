"""Synchformer's audio tower: the audio spectrogram transformer (AST) of the transformers library.

Metrics specification, section 4. transformers 5 renamed AST's layers; weights keep the names of the public checkpoint.

Legend for shapes: S segments, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from components.metrics.synchformer.aggregation import TokenAggregation

MEL_BANDS = 128
SEGMENT_MELS = 66
"""Mel frames of a segment."""
AUDIO_TOKENS = 6
"""Tokens of a segment, one per column of patches."""

_SPECIAL_TOKENS = 2
# (public checkpoint, transformers 5); the first of two that fit comes first
_RENAMES = (
    ("ast.encoder.layer.", "ast.layers."),
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)


class AudioTower(nn.Module):
    """Segments of 66 mel frames to six tokens each.

    Args:
        dim: D, width of the tokens.
        depth: layers.
        num_heads: heads of every attention.
    """

    def __init__(self, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        from transformers import ASTConfig, ASTModel

        config = ASTConfig(
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            intermediate_size=4 * dim,
            num_mel_bins=MEL_BANDS,
            max_length=SEGMENT_MELS,
        )
        self.ast = ASTModel(config)
        self.freq_attn_agg = TokenAggregation(dim, num_heads)
        nn.Module.register_state_dict_post_hook(self, _to_public_names)
        nn.Module.register_load_state_dict_pre_hook(self, _from_public_names)

    def forward(self, mels: Tensor) -> Tensor:
        """Normalised log mels ``[S, 128, 66]`` to ``[S, 6, D]``."""
        patches: Tensor = self.ast(mels.transpose(1, 2)).last_hidden_state[:, _SPECIAL_TOKENS:]
        # frequency-major, as AST lays its patches: [S, 12 rows, 6 columns, D] to a row of 12 per column
        columns = patches.unflatten(1, (-1, AUDIO_TOKENS)).transpose(1, 2)
        result: Tensor = self.freq_attn_agg.aggregate(columns.flatten(0, 1)).unflatten(0, columns.shape[:2])
        return result


def _to_public_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """Respells the keys of a state dict that has just been made."""
    del module, rest
    _rename(state, prefix, [(ours, public) for public, ours in _RENAMES])


def _from_public_names(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """Respells the keys of a state dict that is about to be read."""
    del module, rest
    _rename(state, prefix, _RENAMES)


def _rename(state: dict[str, Any], prefix: str, renames: Sequence[tuple[str, str]]) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}ast.")]:
        name = key.removeprefix(prefix)
        for old, new in renames:
            name = name.replace(old, new)
        state[prefix + name] = state.pop(key)
