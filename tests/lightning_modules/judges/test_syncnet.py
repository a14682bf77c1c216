import json
from dataclasses import replace

import lightning as L
import pytest
import torch

from callbacks.results import ResultsWriter
from components.errors import InputError
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.objectives.sync_contrastive import SyncContrastiveLoss
from components.v2a.degrade import Degrade
from components.weights.pretrained import PACKAGE_ROOT
from datamodules.procedural_speech import ProceduralSpeech
from lightning_modules.command_line.cli import main
from lightning_modules.judges.syncnet import SyncNetModule


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return ProceduralSpeech(
        str(tmp_path_factory.mktemp("clips")),
        num_train=8,
        num_test=6,
        num_speakers=3,
        strike_share=0,
        variety=0.3,
        reference_s=None,
        batch_size=4,
        val_batch_size=4,
    )


@pytest.fixture(scope="module")
def batch(clips):
    clips.prepare_data()
    clips.setup("fit")
    return next(iter(clips.train_dataloader()))


def module(**kwargs):
    torch.manual_seed(0)
    net = SyncNet((8, 12, 12, 12, 12, 24), (8, 12, 12, 12, 12, 24), 32, 16, 64)
    kwargs.setdefault("optimizer", lambda parameters: torch.optim.AdamW(parameters, lr=5e-3))
    return SyncNetModule(SyncNetScorer(net), **kwargs)


def trainer(tmp_path, **kwargs):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", default_root_dir=tmp_path, check_val_every_n_epoch=None, **quiet, **kwargs)


@pytest.mark.gate
def test_fit_learns_to_tell_own_sounds_from_others(clips, tmp_path):
    learner = module()
    run = trainer(tmp_path, max_steps=90, val_check_interval=90, num_sanity_val_steps=0, callbacks=[ResultsWriter()])
    run.fit(learner, datamodule=clips)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    results = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert {name: result["value"] for name, result in results.items()} == {
        name: pytest.approx(logged[name]) for name in ("sync_c_real", "sync_d_real", "sync_c_chance", "sync_d_chance")
    }
    assert logged["n_clips_real"] == logged["n_clips_chance"] == 6
    assert logged["sync_c_real"] > 1.2 * logged["sync_c_chance"]
    assert logged["sync_d_real"] < logged["sync_d_chance"]

    learner.save_pretrained(tmp_path / "syncnet")
    loaded = SyncNetScorer(SyncNet.from_pretrained(tmp_path / "syncnet"))
    held_out = next(iter(clips.val_dataloader()))
    found = loaded(held_out.video / 255, held_out.fps, held_out.audio, held_out.sample_rate)
    assert (found["offset_s"].abs() <= 0.08).float().mean() >= 0.5  # of offsets from -0.6 to 0.6 s


def test_same_seed_same_losses_and_another_seed_others(batch):
    losses = [module(noise_seed=seed, degrade=Degrade()).training_step(batch, 0).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_training_sees_what_the_scorer_sees(batch):
    """The loss of a step, made anew from the scorer's embeddings."""
    learner = module(loss=SyncContrastiveLoss(margin=3.0)).eval()
    lips = [tracks[0].embeddings for tracks in learner.scorer.lips(batch.video / 255, batch.fps)]
    sounds = learner.scorer.sounds(batch.audio, batch.sample_rate)
    num_windows = sounds.shape[1]
    expected = learner.loss(torch.stack(lips)[:, :num_windows], sounds)
    torch.testing.assert_close(learner.training_step(batch, 0), expected, rtol=1e-4, atol=1e-5)


def test_short_training_clips_are_refused(batch):
    short = replace(batch, video=batch.video[:, :4], audio=batch.audio[:, :3000])
    with pytest.raises(InputError, match=r"clips of 4 frames at 25 fps hold no window.*clip\.num_frames"):
        module().training_step(short, 0)


def test_schedule_is_stepped_per_step(clips, tmp_path):
    learner = module(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 4))
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(learner, datamodule=clips)
    assert learner.optimizers().param_groups[0]["lr"] == pytest.approx(5e-3 * 0.5)


def test_the_shipped_experiment_trains_and_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        "data.num_train": 2,
        "data.num_test": 4,
        "data.num_speakers": 1,
        "data.root": tmp_path / "clips",
        "data.batch_size": 2,
        "trainer.max_steps": 1,
        "trainer.val_check_interval": 1,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "callbacks.export.folder": tmp_path / "syncnet",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    assert main(["fit", "--config", str(PACKAGE_ROOT / "configs/harmony/syncnet.yaml"), *given]) == 0
    net = SyncNet.from_pretrained(tmp_path / "syncnet")
    assert net.image_size == 64


def test_what_is_drawn_for_a_batch_does_not_depend_on_the_rank(batch, monkeypatch):
    placed = replace(batch, position=8)
    losses = []
    for rank in range(2):
        learner = module(degrade=Degrade())
        monkeypatch.setattr(type(learner), "global_rank", rank)
        losses.append(learner.training_step(placed, rank).item())
    assert losses[0] == losses[1]
