"""Syncphony's transformer: a Pyramid Flow backbone whose late blocks attend to the sound."""

from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT

__all__ = ["AudioTimeline", "SyncphonyDiT"]
