"""A Syncphony module of the smallest size, clips for it, and a data module that deals them like the real ones."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from components.backbones.syncphony.model import SyncphonyDiT
from components.codecs.video.pixel import PixelCodec
from components.contracts import ClipBatch
from components.encoders.audio.log_mel import LogMelEncoder
from components.encoders.text.hashed_words import HashedWords
from components.samplers.pyramid_sampler import PyramidSampler
from lightning_modules.syncphony.module import SyncphonyModule
from tests.tiny_syncphony import POOLED_DIM, generator, randomise, tiny_backbone

FPS, RATE, FRAMES, SIZE = 24.0, 16000, 7, 16
WORDS = POOLED_DIM


def tiny_dit(variant: str = "miniflux", first_late_block: int = 2, seed: int = 0, **settings: Any) -> SyncphonyDiT:
    backbone = tiny_backbone(variant, latent_channels=12, text_dim=WORDS, pooled_dim=WORDS, seed=seed)
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"audio_dim": 8}
    return SyncphonyDiT(backbone, first_late_block, **(defaults | settings))


def tiny_module(dit: SyncphonyDiT | None = None, random_audio: bool = False, **settings: Any) -> SyncphonyModule:
    """Four latent frames of 8 x 8 with 12 channels; ``settings`` replace the constructor's arguments."""
    dit = dit or tiny_dit()
    if random_audio and dit.audio_layers is not None:
        randomise(dit.audio_layers, 1)
    defaults: dict[str, Any] = {
        "codec": PixelCodec(temporal_factor=2),
        "text_encoder": HashedWords(WORDS),
        "audio_encoder": LogMelEncoder(num_mels=4),
        "optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        "sampler": PyramidSampler(video_steps=(1, 1, 2), video_text_scale=2.0),
    }
    return SyncphonyModule(dit, **(defaults | settings))


def clips(
    batch: int = 4, position: int | None = None, seed: int = 0, frames: int = FRAMES, size: int = SIZE
) -> ClipBatch:
    """Moving random pictures with random sound."""
    g = generator(seed)
    return ClipBatch(
        ids=[f"clip{seed}_{b}" for b in range(batch)],
        video=torch.randint(0, 256, (batch, frames, 3, size, size), generator=g, dtype=torch.uint8),
        fps=FPS,
        audio=torch.randn(batch, round(frames / FPS * RATE), generator=g) * 0.1,
        sample_rate=RATE,
        captions=["a bouncing ball", "a face"][: batch % 2 + 1] * batch
        if batch == 1
        else ["a ball", "a face"] * (batch // 2),
        video_ids=[f"video{b}" for b in range(batch)],
        position=position,
    )


class Endless(IterableDataset):
    """Batches as a function of the samples consumed so far: the ranks take turns, a batch each."""

    def __init__(self, data: "TinyData") -> None:
        self.data = data

    def __iter__(self) -> Iterator[ClipBatch]:
        world, rank = self.data.trainer.world_size, self.data.trainer.global_rank
        step = self.data.consumed
        while True:
            index = step * world + rank  # of the batch in the order of all processes
            yield clips(4, position=index * 4, seed=index)
            step += 1


class TinyData(L.LightningDataModule):
    """Endless batches that go on after the batches consumed before a resumption."""

    def __init__(self) -> None:
        super().__init__()
        self.consumed = 0

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([clips(2, seed=77)], batch_size=None)

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.consumed = state_dict["consumed"]


def trainer(folder: Any, max_steps: int, kind: type[L.Trainer] = L.Trainer, **settings: Any) -> L.Trainer:
    """A quiet Trainer on one CPU."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": max_steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "default_root_dir": str(folder),
    }
    return kind(**(defaults | settings))
