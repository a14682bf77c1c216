"""Wan2.2: the tower and its public weights."""

from components.backbones.wan.checkpoint import wan_tower
from components.backbones.wan.model import WanTower

__all__ = ["WanTower", "wan_tower"]
