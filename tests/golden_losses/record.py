"""Loss curves of one tiny run per system, which a change must keep or explain.

    python -m tests.golden_losses.record [syncphony] [harmony]

writes them anew; the change that needs it says why. Each run is the real module under Lightning's Trainer, in float32
on one thread: the same code path as an experiment's, at the smallest size. Weights are drawn by their names, so a curve
depends on names and shapes of the parameters but not on the order in which modules are built.
"""

import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from components.backbones.harmony.frame_band import BandConfig
from components.contracts import ClipBatch
from components.objectives.cross_task import CrossTaskSynergy
from components.objectives.motion_aware import MotionAwareLoss
from tests.lightning_modules import tiny_module as syncphony
from tests.lightning_modules.harmony import tiny_harmony_module as harmony

FOLDER = Path(__file__).parent
NUM_STEPS, NUM_BATCHES, LEARNING_RATE = 16, 4, 3e-3


@torch.no_grad()
def initialise(module: torch.nn.Module) -> None:
    """Values that matter for all parameters, also those that begin at zero, drawn by their names."""
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        vector = float(name.endswith("weight")) + 0.2 * noise  # norms near 1, biases near 0
        p.copy_(vector if p.ndim <= 1 else noise * p.shape[1:].numel() ** -0.5)


class Losses(L.Callback):
    """The loss of every training step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.found.append(float(outputs["loss"]))


def curve(module: L.LightningModule, clips: Callable[..., ClipBatch], batch_size: int, num_steps: int) -> list[float]:
    """Loss of every step on `NUM_BATCHES` batches of clips that take turns."""
    initialise(module)
    batches = [
        clips(batch_size, position=step * batch_size, seed=step % NUM_BATCHES)  # the position decides the noise
        for step in range(num_steps)
    ]
    losses, threads = Losses(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = harmony.trainer(
                folder, max_steps=num_steps, callbacks=[losses], gradient_clip_val=1.0, log_every_n_steps=4
            )
            trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a list is enough
    finally:
        torch.set_num_threads(threads)
    return losses.found


def optimizer(groups: Any) -> torch.optim.Optimizer:
    """AdamW as in the quickstarts."""
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)


def syncphony_curve(num_steps: int = NUM_STEPS, **settings: Any) -> list[float]:
    """Frozen early blocks, trained late blocks and audio layers; pyramid columns and the motion-aware loss.

    As the quickstart's, the motion term begins with the first generated latent.
    """
    defaults: dict[str, Any] = {"optimizer": optimizer, "loss": MotionAwareLoss(first_motion_latent=1)}
    return curve(syncphony.tiny_module(**(defaults | settings)), syncphony.clips, 8, num_steps)


def harmony_curve(num_steps: int = NUM_STEPS, **settings: Any) -> list[float]:
    """Stage joint: both towers and their interaction, every clip on all three tasks of Cross-Task Synergy.

    The exchange is the quickstart's: gated by the source, positions in video latents, keys and values shared.
    """
    manner = {"gate": "source", "style_kv": "shared", "band": BandConfig(rope_unit="video")}
    defaults: dict[str, Any] = {"optimizer": optimizer, "tasks": CrossTaskSynergy("all")}
    module = harmony.tiny_module(harmony.tiny_transformer(**manner), **(defaults | settings))
    return curve(module, harmony.clips, 4, num_steps)


CURVES: dict[str, Callable[..., list[float]]] = {"syncphony": syncphony_curve, "harmony": harmony_curve}


def file_of(system: str) -> Path:
    return FOLDER / f"{system}.json"


if __name__ == "__main__":
    for system in sys.argv[1:] or CURVES:
        losses = [float(f"{loss:.7g}") for loss in CURVES[system]()]  # all digits that float32 has
        file_of(system).write_text(json.dumps({"loss": losses}, indent=2) + "\n")
