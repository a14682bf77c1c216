"""The value objects and base classes that every part of avsync shares.

Legend for shapes: B clips, T video frames, S audio samples, C channels, H x W pixels, L latent frames, h x w latent
pixels, N audio tokens, M text tokens, D features.
"""

from components.contracts.clips import MODALITIES, ClipBatch, Generation, Modality, clip_generator, mixed_seed
from components.contracts.features import AudioFeatures, LatentMoments, PreparedClips, TextFeatures
from components.contracts.parts import (
    AudioCodec,
    AudioEncoder,
    MetricResult,
    ReportsProgress,
    ReportsResults,
    SyncScorer,
    TextEncoder,
    TranscriptEncoder,
    V2AModel,
    VideoCodec,
)

__all__ = [
    "MODALITIES",
    "AudioCodec",
    "AudioEncoder",
    "AudioFeatures",
    "ClipBatch",
    "Generation",
    "LatentMoments",
    "MetricResult",
    "Modality",
    "PreparedClips",
    "ReportsProgress",
    "ReportsResults",
    "SyncScorer",
    "TextEncoder",
    "TextFeatures",
    "TranscriptEncoder",
    "V2AModel",
    "VideoCodec",
    "clip_generator",
    "mixed_seed",
]
