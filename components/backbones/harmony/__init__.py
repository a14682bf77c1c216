"""The dual tower of Harmony and what couples it."""

from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.checkpoint import harmony_audio_tower, load_harmony
from components.backbones.harmony.model import CleanHarmonyTransformer, HarmonyTransformer
from components.backbones.harmony.pretrained_audio_tower import audio_tower_from_wan, ovi_audio_tower

__all__ = [
    "AudioTower",
    "CleanHarmonyTransformer",
    "HarmonyTransformer",
    "audio_tower_from_wan",
    "harmony_audio_tower",
    "load_harmony",
    "ovi_audio_tower",
]
