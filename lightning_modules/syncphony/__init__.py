"""Training and sampling of Syncphony."""

from lightning_modules.syncphony.module import SyncphonyModule

__all__ = ["SyncphonyModule"]
