"""Pyramid Flow's transformers, both variants; they know nothing of sound."""

from components.backbones.pyramid_flow.checkpoint import pretrained_backbone
from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.pyramid_flow.mmdit import PyramidMMDiT

__all__ = ["MiniFluxTransformer", "PyramidMMDiT", "pretrained_backbone"]
