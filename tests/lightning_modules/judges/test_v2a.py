import json
import math
from dataclasses import replace

import lightning as L
import pytest
import torch

from callbacks.results import ResultsWriter
from components.errors import InputError
from components.metrics.cyclesync.matching import match_events
from components.metrics.cyclesync.onsets import OnsetDetector
from components.v2a.degrade import Degrade
from components.v2a.onset_v2a import OnsetV2A, probability_peaks
from datamodules.procedural_clips import ProceduralClips
from lightning_modules.judges.v2a import V2AModule, onset_targets


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return ProceduralClips(
        root=str(tmp_path_factory.mktemp("clips")),
        kinds=("bouncing_ball",),
        num_train=8,
        num_test=6,
        train_duration_s=2.1,
        batch_size=8,
        val_batch_size=4,
    )


@pytest.fixture(scope="module")
def batch(clips):
    clips.prepare_data()
    clips.setup("fit")
    return next(iter(clips.train_dataloader()))


def module(**kwargs):
    torch.manual_seed(0)
    kwargs.setdefault("detector", OnsetDetector(gate_db=-50.0))
    kwargs.setdefault("optimizer", lambda parameters: torch.optim.AdamW(parameters, lr=5e-3))
    return V2AModule(OnsetV2A(height=16, width=16), **kwargs)


def trainer(tmp_path, **kwargs):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", default_root_dir=tmp_path, check_val_every_n_epoch=None, **quiet, **kwargs)


def test_fit_learns_validates_and_writes_a_model_that_hears(clips, tmp_path):
    learner = module(export_dir=str(tmp_path / "v2a"), tolerance_s=0.05)
    run = trainer(tmp_path, max_steps=40, val_check_interval=40, callbacks=[ResultsWriter()])
    run.fit(learner, datamodule=clips)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    results = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert {name: result["value"] for name, result in results.items()} == {
        name: pytest.approx(logged[name]) for name in ("cyclesync_real", "cyclesync_chance")
    }
    assert logged["cyclesync_real"] == logged["cyclesync_real_at_0.05"]
    # untrained models stay near chance; forty steps on eight recordings are enough to leave it
    assert logged["cyclesync_real_at_0.1"] > max(50, 2 * logged["cyclesync_chance_at_0.1"])
    assert logged["cyclesync_real_low"] <= logged["cyclesync_real"] <= logged["cyclesync_real_high"]

    loaded = OnsetV2A.from_pretrained(tmp_path / "v2a")
    assert loaded.threshold == learner.v2a.threshold
    held_out = next(iter(clips.val_dataloader()))
    sound, rate = loaded(held_out.video / 255, held_out.fps)
    found = OnsetDetector()(sound, rate)
    hits = sum(len(match_events(a, b, 0.1)) for a, b in zip(held_out.onsets, found, strict=True))
    assert hits > 0.5 * sum(map(len, held_out.onsets))


def test_chance_is_another_recordings_sound(clips, batch, tmp_path):
    def logged(video_ids):
        held_out = replace(batch, ids=[f"clip {n}" for n in range(len(batch))], video_ids=video_ids)
        run = trainer(tmp_path)
        learner = module()
        run.validate(learner, torch.utils.data.DataLoader([held_out], batch_size=None), verbose=False)
        assert learner.results.keys() == {
            name for name in ("cyclesync_real", "cyclesync_chance") if not run.callback_metrics[name].isnan()
        }
        return {name: value.item() for name, value in run.callback_metrics.items()}

    # a recording has no other one's sound: the clip beside it, which has its rhythm, is none
    one = logged(["one"] * len(batch))
    assert math.isnan(one["cyclesync_chance"]) and not math.isnan(one["cyclesync_real"])
    assert not math.isnan(logged([f"recording {n % 2}" for n in range(len(batch))])["cyclesync_chance"])


def test_nothing_is_written_without_a_folder(clips, tmp_path):
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(module(), datamodule=clips)
    assert not list(tmp_path.iterdir())


def test_same_seed_same_losses_and_another_seed_others(batch):
    losses = [module(noise_seed=seed, degrade=Degrade()).training_step(batch, 0).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_detected_targets_agree_with_the_truth(batch):
    detected, true = (module(targets=kind)._targets(batch) for kind in ("detected", "true"))
    assert true == [list(times) for times in batch.onsets]
    # clips cut out of a recording may start in the middle of a sound, which is heard as an onset of its own
    for found, wanted in zip(detected, true, strict=True):
        found = [time for time in found if time > 0.1]
        wanted = [time for time in wanted if time > 0.1]
        assert len(match_events(found, wanted, 0.03)) >= len(wanted) - 1


def test_still_clips_are_taught_silence(batch):
    learner = module(still_fraction=0.999)
    learner.v2a.network.head.bias.data.fill_(-20.0)
    assert learner.training_step(batch, 0).item() < 1e-3
    assert module(still_fraction=0.0).training_step(batch, 0).item() > 0.1


def test_gradients_reach_every_weight(batch):
    learner = module()
    learner.training_step(batch, 0).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in learner.v2a.parameters())


def test_schedule_is_stepped_per_step(clips, tmp_path):
    learner = module(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 4))
    trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(learner, datamodule=clips)
    assert learner.optimizers().param_groups[0]["lr"] == pytest.approx(5e-3 * 0.5)


def test_bad_arguments(batch):
    with pytest.raises(InputError, match="targets is 'guessed'; use one of detected, true"):
        module(targets="guessed")
    with pytest.raises(InputError, match="still_fraction is 1"):
        module(still_fraction=1.0)
    with pytest.raises(InputError, match="knows no true onsets"):
        module(targets="true").training_step(replace(batch, onsets=None), 0)


def test_the_model_recovers_the_times_of_targets_below_a_step():
    times = [0.313, 0.741, 1.2, 1.777]
    curve = onset_targets([times], 200, 96.0, 0.012)[0]
    assert probability_peaks(curve, 96.0, 0.5, 0.08) == pytest.approx(times, abs=2e-3)


def test_targets_are_one_at_onsets_and_the_larger_bump_counts():
    curves = onset_targets([[0.5, 0.51], []], 96, 96.0, 0.012)
    assert curves[0, 48] == 1.0
    assert curves.max() <= 1.0
    assert not curves[1].any()
    assert curves[0, 0] < 1e-6


def test_what_is_drawn_for_a_batch_does_not_depend_on_the_rank(batch, monkeypatch):
    placed = replace(batch, position=8)
    losses = []
    for rank in range(2):
        learner = module(degrade=Degrade())
        monkeypatch.setattr(type(learner), "global_rank", rank)
        losses.append(learner.training_step(placed, rank).item())
    assert losses[0] == losses[1]
