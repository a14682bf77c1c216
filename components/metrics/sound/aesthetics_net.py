"""The network of Audiobox Aesthetics: a WavLM whose layers are weighed anew for each of four questions about a sound.

Tjandra et al. (arXiv 2502.05139). It is built on transformers' WavLM; `RENAMES` leads from the keys of the public file
to these.

Legend for shapes: B windows, S samples, T frames of 320 samples, C width, L layers and the input of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = ("CE", "CU", "PC", "PQ")
"""Content enjoyment, content usefulness, production complexity, production quality."""

RENAMES = (
    (".mask_emb", ".masked_spec_embed"),
    *((f".conv_layers.{layer}.0.", f".conv_layers.{layer}.conv.") for layer in range(7)),
    (".conv_layers.0.2.", ".conv_layers.0.layer_norm."),
    (".post_extract_proj.", ".feature_projection.projection."),
    ("wavlm_model.layer_norm.", "wavlm_model.feature_projection.layer_norm."),
    (".pos_conv.0.weight_g", ".pos_conv_embed.conv.parametrizations.weight.original0"),
    (".pos_conv.0.weight_v", ".pos_conv_embed.conv.parametrizations.weight.original1"),
    (".pos_conv.0.", ".pos_conv_embed.conv."),
    (".self_attn_layer_norm.", ".layer_norm."),
    (".self_attn.grep_a", ".attention.gru_rel_pos_const"),
    (".self_attn.grep_linear.", ".attention.gru_rel_pos_linear."),
    (".self_attn.relative_attention_bias.", ".attention.rel_attn_embed."),
    (".self_attn.", ".attention."),
    (".fc1.", ".feed_forward.intermediate_dense."),
    (".fc2.", ".feed_forward.output_dense."),
)
"""Pieces of the public file's keys, and what transformers calls them."""


class AestheticsNet(nn.Module):
    """WavLM, and for each axis the weights of its layers and a head.

    Args:
        proj_num_layer: linear layers of a head.
        proj_ln: a layer norm after each of them but the last.
        proj_dropout: whether dropouts take places in a head; they do nothing here.
        normalize_embed: bring what a head gets to length 1.
        wavlm: entries of WavLM's config that differ from WavLM-base.
    """

    def __init__(
        self,
        proj_num_layer: int = 1,
        proj_ln: bool = False,
        proj_dropout: float = 0.0,
        normalize_embed: bool = True,
        wavlm: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from transformers import WavLMConfig, WavLMModel

        # nothing is masked and no layer dropped: these are for training
        config = WavLMConfig(**{"apply_spec_augment": False, "layerdrop": 0.0, **(wavlm or {})})
        self.wavlm_model = WavLMModel(config)
        width, layers = config.hidden_size, config.num_hidden_layers + 1
        heads = {axis: _head(width, proj_num_layer, proj_ln, proj_dropout) for axis in AXES}
        self.proj_layer = nn.ModuleDict(heads)
        self.layer_weights = nn.ParameterDict({axis: nn.Parameter(torch.full((layers,), 1 / layers)) for axis in AXES})
        self.normalize_embed = normalize_embed

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Windows ``[B, S]`` at 16 kHz, of which only the first ``lengths`` ``[B]`` samples are sound, to ``[B, 4]``.

        The values are those of `AXES`, before they are brought to the scale of the listeners.
        """
        layers, heard = self._layers(windows, lengths)
        weight = heard.unsqueeze(-1).to(layers)
        scores = []
        for axis in AXES:
            mixed = torch.einsum("btcl,l->btc", layers, self.layer_weights[axis].softmax(-1))
            pooled = (mixed * weight).sum(1) / weight.sum(1).clamp(min=1)
            if self.normalize_embed:
                pooled = F.normalize(pooled, dim=-1)
            scores.append(self.proj_layer[axis](pooled)[:, 0])
        return torch.stack(scores, dim=1)

    def _layers(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """All layers ``[B, T, C, L]``, and which frames are sound ``[B, T]``."""
        frames = self.wavlm_model.feature_extractor(windows).mT
        hidden, _ = self.wavlm_model.feature_projection(frames)
        # as the public code has it: a frame is sound if any of its 320 samples is (transformers counts otherwise)
        step = windows.shape[1] // hidden.shape[1]
        heard = torch.arange(hidden.shape[1], device=hidden.device) * step < lengths[:, None]
        hidden = hidden.masked_fill(~heard[..., None], 0)
        encoder = self.wavlm_model.encoder
        hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
        found, bias = [hidden], None
        for layer in encoder.layers:
            hidden, bias = layer(hidden, attention_mask=heard, position_bias=bias)[:2]
            found.append(hidden)
        return torch.stack(found, dim=-1), heard


def _head(width: int, num_layers: int, norm: bool, dropout: float) -> nn.Sequential:
    """Linear layers with GELU between them; the places are those of the public file."""
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, width), *([nn.LayerNorm(width)] if norm else []), nn.GELU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(width, 1))
