"""What the shapes of weights say about the settings of a Pyramid Flow transformer, to name a config's mistake."""

from __future__ import annotations

import math

from components.weights_fit import Shapes, num_numbered


def transformer_settings(shapes: Shapes) -> dict[str, object]:
    """Settings of ``config.json`` that can be read off ``shapes`` (under the public keys), as far as they go."""
    found: dict[str, object] = {
        "num_layers": num_numbered(shapes, "transformer_blocks"),
        "num_single_layers": num_numbered(shapes, "single_transformer_blocks"),
    }
    axes = {
        "attention_head_dim": ("transformer_blocks.0.attn.norm_q.weight", 0),
        "joint_attention_dim": ("context_embedder.weight", 1),
        "pooled_projection_dim": ("time_text_embed.text_embedder.linear_1.weight", 1),
        "in_channels": ("pos_embed.proj.weight" if "pos_embed.proj.weight" in shapes else "x_embedder.weight", 1),
        "patch_size": ("pos_embed.proj.weight", 2),
    }
    for setting, (key, axis) in axes.items():
        if len(shapes.get(key, ())) > axis:
            found[setting] = shapes[key][axis]
    head_dim = shapes.get("transformer_blocks.0.attn.norm_q.weight", ())
    if len(head_dim) == 1 and head_dim[0] and "context_embedder.bias" in shapes:
        found["num_attention_heads"] = math.prod(shapes["context_embedder.bias"]) // head_dim[0]
    if len(table := shapes.get("pos_embed.pos_embed", ())) == 3:
        found["pos_embed_max_size"] = math.isqrt(table[1])
    return found
