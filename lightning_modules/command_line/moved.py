"""Where classes, settings and metrics that a configuration may name have gone: those of earlier versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MOVED: dict[str, dict[str, str]] = {
    "components.attention": {
        "audio_windows.AudioTimeline": "components.backbones.syncphony.AudioTimeline",
        "decoupled_interaction.InteractionConfig": "components.backbones.harmony.interaction.InteractionConfig",
        "frame_band.BandConfig": "components.backbones.harmony.frame_band.BandConfig",
    },
    "components.backbones": {
        "audio_tower.AudioTower": "components.backbones.harmony.AudioTower",
        "harmony_checkpoint.harmony_audio_tower": "components.backbones.harmony.harmony_audio_tower",
        "harmony_checkpoint.load_harmony": "components.backbones.harmony.load_harmony",
        "harmony_transformer.HarmonyTransformer": "components.backbones.harmony.HarmonyTransformer",
        "miniflux.MiniFluxTransformer": "components.backbones.pyramid_flow.MiniFluxTransformer",
        "mmdit.PyramidMMDiT": "components.backbones.pyramid_flow.PyramidMMDiT",
        "pretrained.pretrained_backbone": "components.backbones.pyramid_flow.pretrained_backbone",
        "syncphony_dit.SyncphonyDiT": "components.backbones.syncphony.SyncphonyDiT",
        "wan_branch.WanTower": "components.backbones.wan.WanTower",
        "wan_checkpoint.wan_tower": "components.backbones.wan.wan_tower",
    },
    "components.codecs": {
        "causal_video_vae.CausalVideoVAE": "components.codecs.video.causal_vae.model.CausalVideoVAE",
        "causal_video_vae_codec.CausalVideoCodec": "components.codecs.video.causal_vae.codec.CausalVideoCodec",
        "log_mel_codec.LogMelCodec": "components.codecs.audio.log_mel.LogMelCodec",
        "mdct_codec.MDCTCodec": "components.codecs.audio.mdct.MDCTCodec",
        "mmaudio_codec.MMAudioCodec": "components.codecs.audio.mmaudio.MMAudioCodec",
        "pixel_codec.PixelCodec": "components.codecs.video.pixel.PixelCodec",
        "wan_video_vae.WanVideoCodec": "components.codecs.video.wan.WanVideoCodec",
    },
    "components.encoders": {
        "cached_text.CachedText": "components.encoders.text.cached.CachedText",
        "cached_transcript.CachedTranscript": "components.encoders.transcript.cached.CachedTranscript",
        "cached_transcript.TranscriptFolder": "components.encoders.transcript.cached.TranscriptFolder",
        "character_transcript.CharacterTranscript": "components.encoders.transcript.characters.CharacterTranscript",
        "clap.ClapAudioEncoder": "components.encoders.audio.clap.ClapAudioEncoder",
        "denseav.DenseAVEncoder": "components.encoders.audio.denseav.DenseAVEncoder",
        "hashed_words.HashedWords": "components.encoders.text.hashed_words.HashedWords",
        "log_mel.LogMelEncoder": "components.encoders.audio.log_mel.LogMelEncoder",
        "pyramid_flow_text.PyramidFlowText": "components.encoders.text.pyramid_flow.PyramidFlowText",
        "pyramid_flow_text_folder.PyramidFlowTextFolder": (
            "components.encoders.text.pyramid_flow_folder.PyramidFlowTextFolder"
        ),
        "spectrogram_transformer.SpectrogramTransformerEncoder": (
            "components.encoders.audio.spectrogram_transformer.SpectrogramTransformerEncoder"
        ),
        "speech_models.SpeechEncoder": "components.encoders.audio.speech_models.SpeechEncoder",
        "transcript.ByT5Transcript": "components.encoders.transcript.pretrained.ByT5Transcript",
        "transcript.SpeechT5Transcript": "components.encoders.transcript.pretrained.SpeechT5Transcript",
        "umt5_text.UMT5Text": "components.encoders.text.umt5.UMT5Text",
        "umt5_text.WanTextFolder": "components.encoders.text.umt5.WanTextFolder",
        "whisper.WhisperAudioEncoder": "components.encoders.audio.whisper.WhisperAudioEncoder",
    },
    "components.metrics": {
        "cyclesync.CycleSync": "components.metrics.cyclesync.metric.CycleSync",
        "face_detector.WholeFrame": "components.metrics.syncnet.tracking.WholeFrame",
        "onsets.OnsetDetector": "components.metrics.cyclesync.onsets.OnsetDetector",
        "syncnet.SyncNet": "components.metrics.syncnet.model.SyncNet",
        "syncnet_scorer.SyncNetScorer": "components.metrics.syncnet.scorer.SyncNetScorer",
        "syncnet_tracking.FaceTracker": "components.metrics.syncnet.tracking.FaceTracker",
    },
    "components.objectives": {"noise_levels.NoiseLevels": "components.objectives.cross_task.NoiseLevels"},
    "components.v2a": {"onset_network.OnsetNetwork": "components.v2a.onset_v2a.OnsetNetwork"},
    "datamodules": {
        "clip_data_module.ClipDataModule": "datamodules.reading.clip_data_module.ClipDataModule",
        "reference_voices.ReferenceVoices": "datamodules.reading.reference_voices.ReferenceVoices",
    },
    "lightning_modules": {
        "atomic_checkpoint_io.AtomicCheckpointIO": "lightning_modules.checkpoints.atomic.AtomicCheckpointIO",
        "fsdp2.FSDP2Strategy": "lightning_modules.strategies.fsdp2.FSDP2Strategy",
        "modality_watch.ModalityWatch": "lightning_modules.harmony.modality_watch.ModalityWatch",
        "syncnet.SyncNetModule": "lightning_modules.judges.syncnet.SyncNetModule",
        "trainer.AVSyncTrainer": "lightning_modules.command_line.trainer.AVSyncTrainer",
        "v2a.V2AModule": "lightning_modules.judges.v2a.V2AModule",
    },
}
"""By the folder it was in: a class's old path within, and its new path whole."""

MOVED_SETTINGS: dict[str, dict[str, str]] = {
    "HarmonyModule": {
        "stage": "curriculum.stage",
        "init_from": "curriculum.init_from",
        "train_video": "curriculum.train_video",
        "train_audio": "curriculum.train_audio",
        "video_lora": "curriculum.video_lora",
        "audio_lora": "curriculum.audio_lora",
        "patience": "curriculum.patience",
        "reference_dropout": "dropout.reference",
        "text_dropout": "dropout.text",
        "transcript_dropout": "dropout.transcript",
        "generates": "generation.task",
        "from_image": "generation.from_image",
        "still_without_image": "generation.still_without_image",
        "variants": "generation.variants",
        "negative_prompt": "negatives.prompt",
        "negative_scene": "negatives.scene",
        "negative_transcript": "negatives.transcript",
    },
}
"""By the class that took it: a constructor's old argument, and where it stands in the sections there are now."""


def new_place(class_path: str) -> str | None:
    """Where what ``class_path`` named is now, with what follows the class, such as ``.from_pretrained``; else None."""
    for folder, paths in MOVED.items():
        rest = class_path.removeprefix(f"{folder}.")
        for old, new in paths.items():
            if rest != class_path and f"{rest}.".startswith(f"{old}."):
                return new + rest[len(old) :]
    return None


_OLD_METRIC = re.compile(r"\b(?:val|test)/((?:cyclesync|sync_[cd]|n_clips)\w*)(?:/(value|at_[\d.]*\d))?")


def old_metric(config: object) -> tuple[str, str, str] | None:
    """The first setting that names a metric as it was called before: its key, the old name and the present one.

    Looks at whatever is monitored, and at file names that hold a metric's value: a checkpoint's name would show 0.

    Args:
        config: a configuration, as nested dictionaries and lists.
    """
    for key, text in _texts(config):
        if key.rpartition(".")[2] in ("monitor", "filename") and (found := _OLD_METRIC.search(text)):
            at = f"_{found[2]}" if found[2] and found[2] != "value" else ""
            return key, found[0], f"{found[1]}{at}"
    return None


def _texts(config: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a configuration and its key."""
    if isinstance(config, str):
        yield key, config
        return
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for name, item in items:
        yield from _texts(item, f"{key}.{name}" if key else str(name))
