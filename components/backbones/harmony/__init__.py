"""The dual tower of Harmony and what couples it."""

from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.checkpoint import (
    audio_tower_from_wan,
    harmony_audio_tower,
    harmony_video_tower,
    load_harmony,
    ovi_audio_tower,
)
from components.backbones.harmony.model import HarmonyTransformer

__all__ = [
    "AudioTower",
    "HarmonyTransformer",
    "audio_tower_from_wan",
    "harmony_audio_tower",
    "harmony_video_tower",
    "load_harmony",
    "ovi_audio_tower",
]
