"""A small cache of real recordings, and a training that writes down what it is given; also on two ranks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from components.codecs.video.pixel import PixelCodec
from components.contracts import ClipBatch
from components.encoders.audio.log_mel import LogMelEncoder
from components.encoders.text.hashed_words import HashedWords
from components.media.clock import ClipShape
from datamodules.avsync15 import AVSync15
from datamodules.prepared.store import Plan, Store
from datamodules.reading.clip_facts import facts_of_clips
from lightning_modules.preparation.clip_encoder import ClipEncoder
from lightning_modules.preparation.preparation import Preparation

SHAPE = ClipShape(num_frames=13, fps=12, height=16, width=16)


def data(root: Path, **more: Any) -> AVSync15:
    return AVSync15(str(root), **{"clip": SHAPE, "batch_size": 2, "num_workers": 0, "seed": 5, **more})


def preparation(root: Path, folder: Path, **more: Any) -> Preparation:
    """Three clips of each of seven recordings, five items in a shard."""
    source = data(root, offsets=3, **more)
    source.codec_step = 4
    clips = source.training_clips()
    facts = facts_of_clips(source.clip_settings(), clips.records, 4)
    plan = Plan({}, facts, {}, 3, len(clips.records), clips_per_shard=5, dtype="float32")
    encoder = ClipEncoder(source.clip, torch.device("cpu"), PixelCodec(4), None, LogMelEncoder(), HashedWords(8))
    return Preparation(Store(folder, plan), clips, encoder, 0, source.on_corrupt, source.max_corrupt_fraction)


class Recorder(L.LightningModule):
    """Names, places and digests of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []

    def training_step(self, batch: ClipBatch, index: int) -> torch.Tensor:
        assert batch.video_latents is not None and batch.audio_features is not None and batch.text_features is not None
        digest = hashlib.sha256()
        for tensor in (batch.video_latents, batch.audio_features.tokens, batch.text_features.tokens):
            digest.update(tensor.numpy().tobytes())
        self.seen.append([batch.position, list(batch.ids), digest.hexdigest()])
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(root: Path, cache: Path | str, folder: Path, steps: int, ckpt: Path | None = None, **more: Any) -> list[Any]:
    """What a run of ``steps`` has seen; it leaves ``<steps>.ckpt``."""
    ranks = more.pop("ranks", 1)
    run = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        check_val_every_n_epoch=None,
        val_check_interval=1000,
        default_root_dir=folder,
    )
    model = Recorder()
    run.fit(model, data(root, latents=str(cache), **more), ckpt_path=ckpt, weights_only=False)
    run.save_checkpoint(folder / f"{steps}.ckpt")
    if ranks > 1:
        (folder / f"rank{run.global_rank}.json").write_text(json.dumps(model.seen))
    return model.seen


def train_on_two_ranks(root: Path, cache: Path, folder: Path, steps: int, ckpt: Path, workers: int) -> None:
    """What one of the two processes does; it leaves ``rank<rank>.json``."""
    train(root, cache, folder, steps, ckpt, num_workers=workers, ranks=2)
