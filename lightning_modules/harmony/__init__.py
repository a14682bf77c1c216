"""Training and sampling of Harmony."""

from lightning_modules.harmony.module import HarmonyModule

__all__ = ["HarmonyModule"]
