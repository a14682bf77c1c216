"""How a golden pack stores calls of the transformers: columns, rows, weights and configs."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.contracts import TextFeatures

Case = dict[str, torch.Tensor]


def transformer_class(config: dict) -> type[PyramidFlowTransformer]:
    if config["_class"] == "PyramidFluxTransformer":
        from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer

        return MiniFluxTransformer
    from components.backbones.pyramid_flow.mmdit import PyramidMMDiT

    return PyramidMMDiT


def load_transformer(folder: Path) -> PyramidFlowTransformer:
    config = json.loads((folder / "config.json").read_text())
    model = transformer_class(config).from_config(config)
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return model.eval()


def numbered(case: Case, prefix: str) -> list[torch.Tensor]:
    """``prefix.0``, ``prefix.1`` ... as far as they go."""
    found = []
    while f"{prefix}.{len(found)}" in case:
        found.append(case[f"{prefix}.{len(found)}"])
    return found


def columns_of(case: Case) -> list[Column]:
    """Column c owns rows c, c + K, c + 2K ... of text, mask, pooled vector and timestep."""
    clips = []
    while f"in.clip.{len(clips)}.0" in case:
        clips.append(numbered(case, f"in.clip.{len(clips)}"))
    k = len(clips)
    return [
        Column(
            clips=clips[c],
            timesteps=case["in.timestep"][c::k],
            text=TextFeatures(case["in.text"][c::k], case["in.text_mask"][c::k].bool(), case["in.pooled"][c::k]),
        )
        for c in range(k)
    ]
