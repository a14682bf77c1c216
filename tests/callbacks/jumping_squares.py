"""A model and clips whose CycleSync is known: a square jumps whenever something is heard.

`MotionV2A` hears exactly the jumps, so a video that jumps at the driving sound's onsets scores 100.
"""

from dataclasses import replace

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from components.contracts import ClipBatch, Generation
from components.v2a.bursts import render_bursts

FPS = 24.0
FRAMES = 37
RATE = 16_000
SIDE = 32
CORNERS = ((2, 3), (18, 6), (6, 20), (19, 21), (11, 12))
JUMPS = {  # clip -> frames at which its sound has an onset
    "hammering/a_0": (6, 16, 27),
    "hammering/a_1": (9, 21, 31),
    "frog/b_0": (5, 13, 20, 30),
    "frog/b_1": (8, 18, 26),
    "bell/c_0": (12, 23),
    "bell/c_1": (7, 15, 25, 33),
}
COLORS = {"hammering": (0.95, 0.55, 0.2), "frog": (0.35, 0.8, 0.4), "bell": (0.4, 0.6, 0.95)}


def render(frames, color=(0.9, 0.9, 0.9), background=0.12):
    """Float ``[T, 3, H, W]``: a square that jumps to another corner at each of ``frames``."""
    video = torch.full((FRAMES, 3, SIDE, SIDE), background)
    for frame in range(FRAMES):
        y, x = CORNERS[sum(frame >= jump for jump in frames) % len(CORNERS)]
        video[frame, :, y : y + 9, x : x + 9] = torch.tensor(color)[:, None, None]
    return video


def clip_batch(ids, valid=None):
    onsets = [[frame / FPS for frame in JUMPS[name]] for name in ids]
    videos = [render(JUMPS[name], COLORS[name.partition("/")[0]]) for name in ids]
    return ClipBatch(
        ids=ids,
        video=(torch.stack(videos) * 255).to(torch.uint8),
        fps=FPS,
        audio=render_bursts(onsets, round(FRAMES / FPS * RATE), RATE),
        sample_rate=RATE,
        captions=[name.partition("/")[0] for name in ids],
        video_ids=[name.partition("_")[0] for name in ids],
        onsets=[tuple(times) for times in onsets],
        valid=None if valid is None else torch.tensor(valid),
    )


def generation(batch, hits=None, variants=True):
    """The square of each clip jumps at the first ``hits`` onsets (all if None); off-sync it jumps where nothing is.

    Without guidance (``w0``) it jumps at the first onset only.
    """

    def made(frames_of):
        videos = torch.stack([render(frames_of(name), COLORS[name.partition("/")[0]]) for name in batch.ids])
        return Generation(videos, batch.fps, batch.audio, batch.sample_rate, batch, valid=batch.valid)

    guided = made(lambda name: JUMPS[name][:hits])
    if not variants:
        return guided
    others = {
        "w0": made(lambda name: JUMPS[name][:1]),
        "off_sync": made(lambda name: tuple(frame + 3 for frame in JUMPS[name][:2])),
    }
    return replace(guided, variants=others)


class JumpingSquares(L.LightningModule):
    """Learns nothing, but its square meets one more onset per training step.

    Args:
        bad_at: step whose loss is NaN, or None.
        fail_at: step at which it raises, or None.
        silent: evaluate clips without any sound or motion.
        width: size of the layer that is trained.
    """

    def __init__(self, bad_at: int | None = None, fail_at: int | None = None, silent: bool = False, width: int = 3):
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.bad_at = bad_at
        self.fail_at = fail_at
        self.silent = silent
        self.register_buffer("hits", torch.tensor(1))

    def training_step(self, batch, batch_idx):
        if self.global_step == self.fail_at:
            raise OSError("the disk is gone")
        self.hits += 1
        loss = self.layer(torch.ones(self.layer.in_features)).square().mean()
        motion = loss * (float("nan") if self.global_step == self.bad_at else 0.0)
        self.log_dict({"train/base": loss, "train/motion": motion})
        return loss + motion

    def validation_step(self, batch, batch_idx):
        if self.silent:
            still = torch.zeros(len(batch), FRAMES, 3, SIDE, SIDE)
            batch = replace(batch, audio=torch.zeros_like(batch.audio), video=still.to(torch.uint8))
            return Generation(still, batch.fps, batch.audio, batch.sample_rate, batch)
        return generation(batch, int(self.hits))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return generation(batch, variants=False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def save_pretrained(self, folder):
        torch.save(self.layer.state_dict(), folder / "layer.pt")


class SquareClips(L.LightningDataModule):
    """The first ``count`` of the six clips, two in a batch."""

    def __init__(self, batch_size: int = 2, count: int = 6):
        super().__init__()
        self.batch_size = batch_size
        self.count = count

    def _loader(self):
        return DataLoader(list(JUMPS)[: self.count], batch_size=self.batch_size, collate_fn=clip_batch)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = _loader
