"""A Harmony module of the smallest size, clips for it, and a data module that deals them like the real ones."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from components.backbones.harmony.model import HarmonyTransformer
from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.pixel import PixelCodec
from components.contracts import ClipBatch
from components.encoders.text.hashed_words import HashedWords
from components.encoders.transcript.characters import CharacterTranscript
from components.samplers.joint_sampler import JointSampler
from lightning_modules.harmony.conditions import GenerationConfig
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.harmony.stages import CurriculumConfig
from tests.tiny_harmony import TEXT_DIM, TRANSCRIPT_DIM, audio_tower, tiny_interaction, video_tower
from tests.tiny_syncphony import generator, randomise

FPS, RATE, FRAMES, SIZE, CHANNELS, AUDIO_CHANNELS = 24.0, 16000, 9, 8, 24, 4
NUM_AUDIO = 11  # 9 / 24 s at 31.25 Hz


def tiny_transformer(
    with_video: bool = True, trained: bool = False, with_audio: bool = True, **interaction: Any
) -> HarmonyTransformer:
    """The dual tower, or one side of it; ``interaction`` changes the manner of the exchange."""
    video = video_tower(in_channels=CHANNELS, out_channels=CHANNELS) if with_video else None
    audio = audio_tower(channels=AUDIO_CHANNELS) if with_audio else None
    exchange = tiny_interaction(**interaction) if with_video and with_audio else None
    model = HarmonyTransformer(video, audio, exchange)
    if trained:
        randomise(model, seed=5)
    return model


def tiny_module(transformer: HarmonyTransformer | None = None, **settings: Any) -> HarmonyModule:
    """Three video latents of 4 x 4 with 24 channels beside 11 audio latents with 4.

    Settings of the sections ``curriculum`` and ``generation`` are given by their own names.
    """
    sections = {"curriculum": CurriculumConfig, "generation": GenerationConfig}
    for name, section in sections.items():
        named = {field.name for field in fields(section)} & settings.keys()
        settings[name] = section(**{field: settings.pop(field) for field in named})
    stage = settings["curriculum"].stage
    defaults: dict[str, Any] = {
        "audio_codec": LogMelCodec(num_mels=AUDIO_CHANNELS // 2),
        "video_codec": PixelCodec(temporal_factor=4) if stage in ("joint", "video") else None,
        "text_encoder": HashedWords(TEXT_DIM, max_words=8),
        "transcript_encoder": CharacterTranscript(TRANSCRIPT_DIM, max_characters=20),
        "optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        "sampler": JointSampler(2),
    }
    towers = {"with_video": stage in ("joint", "video"), "with_audio": stage != "video"}
    return HarmonyModule(transformer or tiny_transformer(**towers), **(defaults | settings))


def clips(batch: int = 2, position: int | None = None, seed: int = 0, reference: bool = True) -> ClipBatch:
    """Moving random pictures with random sound; the second of two clips has no reference."""
    g = generator(seed)
    lengths = torch.tensor([2000, 0] * batch)[:batch]
    return ClipBatch(
        ids=[f"clip{seed}_{b}" for b in range(batch)],
        video=torch.randint(0, 256, (batch, FRAMES, 3, SIZE, SIZE), generator=g, dtype=torch.uint8),
        fps=FPS,
        audio=torch.randn(batch, round(FRAMES / FPS * RATE), generator=g) * 0.1,
        sample_rate=RATE,
        captions=(["a man speaks", "a door"] * batch)[:batch],
        video_ids=[f"video{b}" for b in range(batch)],
        transcripts=(["hello you", ""] * batch)[:batch],
        reference_audio=torch.randn(batch, 2560, generator=g) * 0.1 if reference else None,
        reference_lengths=lengths if reference else None,
        position=position,
    )


class Endless(IterableDataset):
    def __init__(self, data: "TinyClips") -> None:
        self.data = data

    def __iter__(self) -> Iterator[ClipBatch]:
        position = 0
        while True:
            yield self.data.make(position)
            position += 2


class TinyClips(L.LightningDataModule):
    """Two clips a step; ``make`` may be replaced."""

    def make(self, position: int) -> ClipBatch:
        return clips(position=position, seed=position)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([clips(seed=99)], batch_size=None)


def trainer(folder: str, **settings: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return L.Trainer(**(defaults | settings))


def step(module: HarmonyModule, batch: ClipBatch, batch_idx: int = 0) -> torch.Tensor:
    """The training step without a Trainer to log into."""
    module.log = module.log_dict = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    return module.training_step(batch, batch_idx)


def fit(
    module: HarmonyModule, folder: Path, make: Callable[[int], ClipBatch] | None = None, **settings: Any
) -> L.Trainer:
    """Train on clips that ``make`` gives; ``settings`` are the Trainer's."""
    data = TinyClips()
    if make is not None:
        data.make = make  # type: ignore[method-assign]
    run = trainer(str(folder), **settings)
    run.fit(module, data)
    return run
