"""Trains adapters on one process, or on two gloo processes that hold half of the model each."""

import os
from pathlib import Path

import torch

from callbacks.ema import EMA
from components.backbones.lora import LoRAConfig
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from tests.lightning_modules.harmony.tiny_harmony_module import TinyClips, tiny_module, tiny_transformer, trainer


def fit(folder: Path, seed: int = 0, steps: int = 2, resume: Path | None = None, **settings) -> Path:
    """A checkpoint; every process takes the same clips, so that two do what one does.

    Args:
        folder: where to.
        seed: draws what adapters start with.
        steps: of the optimizer.
        resume: checkpoint to go on with.
        settings: of the trainer.
    """
    transformer = tiny_transformer(trained=True)
    torch.manual_seed(seed)
    module = tiny_module(
        transformer,
        video_lora=LoRAConfig(2),
        audio_lora=LoRAConfig(2),
        # an eps above the rounding of gradients: Adam's first steps take a gradient of 1e-9 for its sign alone
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3, eps=1e-5),
    )
    run = trainer(str(folder), max_steps=steps, callbacks=[EMA(0.5)], **settings)
    run.fit(module, TinyClips(), ckpt_path=resume)
    path = folder / f"{steps}.ckpt"
    run.save_checkpoint(path)
    return path


def fit_sharded(folder: Path) -> None:
    """What one of the two processes does."""
    rank = int(os.environ["LOCAL_RANK"])  # rank 0's adapters must win
    strategy = FSDP2Strategy(compute_dtype="float32", save_distributed_checkpoint=False)
    fit(folder, rank, devices=2, strategy=strategy)
