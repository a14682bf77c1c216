"""The shipped quickstart model hears: its motion follows the sound it is given, not the clip it comes from.

Uses the weights that ``configs/quickstart.yaml`` trained (its ``slim.ckpt``).
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule

from components.contracts import ClipBatch
from components.metrics.cyclesync.metric import cyclesync_per_clip
from components.metrics.truth.events import seen_events
from components.metrics.truth.tracker import thing_of, track
from lightning_modules.command_line.cli import AVSyncCLI
from lightning_modules.syncphony.module import SyncphonyModule

pytestmark = [pytest.mark.gate, pytest.mark.long]  # one test, which would be alone at the end

ROOT = Path(__file__).parent.parent
NUM_CLIPS = 12
TOLERANCE_S = 0.05
SHIFT_S = 0.25


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> tuple[SyncphonyModule, ClipBatch]:
    cli = AVSyncCLI(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        run=False,
        args=[
            "--config",
            str(ROOT / "configs/quickstart.yaml"),
            "--callbacks=null",
            "--trainer.logger=false",
            f"--data.root={tmp_path_factory.mktemp('clips')}",
            "--data.num_train=1",
            f"--data.num_test={NUM_CLIPS}",
            f"--data.val_batch_size={NUM_CLIPS}",
        ],
    )
    module, data = cli.model, cli.datamodule
    checkpoint = torch.load(ROOT / "configs/weights/quickstart_syncphony.ckpt", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    data.prepare_data()
    data.setup("validate")
    return module.eval(), next(iter(data.val_dataloader()))


def onsets_of_motion(module: SyncphonyModule, batch: ClipBatch) -> list[list[float]]:
    """When balls, mallets and mouths are seen to hit or to open."""
    videos, firsts = module.generate(batch), batch.video[:, 0] / 255
    things = [thing_of(caption) for caption in batch.captions]
    return [
        seen_events(track(video, first, thing), batch.fps)
        for video, first, thing in zip(videos, firsts, things, strict=True)
        if thing is not None
    ]


def score(driving: list[list[float]], inferred: list[list[float]]) -> float:
    """Mean CycleSync, 0 to 1."""
    values = [row[0] for row in cyclesync_per_clip(driving, inferred, [TOLERANCE_S])]
    return mean(value for value in values if value is not None)


def test_motion_follows_an_exchanged_and_a_shifted_sound(quickstart):
    module, batch = quickstart
    assert batch.onsets is not None
    own = [list(times) for times in batch.onsets]

    exchanged_sound = batch.audio.roll(3, dims=0)  # the scenes take turns by three: same scene, another clip
    exchanged = own[-3:] + own[:-3]
    moved = onsets_of_motion(module, replace(batch, audio=exchanged_sound))
    assert score(exchanged, moved) > 0.35
    assert score(exchanged, moved) > score(own, moved) + 0.2

    shift = round(SHIFT_S * batch.sample_rate)
    shifted_sound = torch.nn.functional.pad(batch.audio, (shift, 0))[:, : batch.audio.shape[1]]
    end = batch.audio.shape[1] / batch.sample_rate
    shifted = [[t + SHIFT_S for t in times if t + SHIFT_S < end] for times in own]
    moved = onsets_of_motion(module, replace(batch, audio=shifted_sound))
    assert score(shifted, moved) > 0.35
    assert score(shifted, moved) > score(own, moved) + 0.2
