import gc
import json
from dataclasses import replace
from typing import ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from callbacks.clip_metrics import ClipMetrics
from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.scorers import ClipScorer, ClipScores
from lightning_modules.command_line.trainer import AVSyncTrainer
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.callbacks.test_cyclesync import evaluated, quiet_trainer

IDS = ["frog/b_0", "frog/b_1", "bell/c_0", "hammering/a_0"]
FRAMES, FPS, RATE = 8, 8.0, 100


class Levels(ClipScorer):
    """How bright a clip is, and how its brightness goes with its loudness; dark clips have no score."""

    higher_is_better: ClassVar = {"brightness": True, "together": True}

    def __init__(self, darkest=0.0):
        super().__init__()
        self.darkest = darkest
        self.asked = []

    def score(self, generation, rows):
        self.asked += [generation.reference.ids[row] for row in rows]
        found = []
        for row in rows:
            bright = generation.video[row].mean().item()
            together = bright * generation.audio[row].abs().mean().item()
            kept = bright > self.darkest
            found.append(ClipScores({"brightness": bright, "together": together}) if kept else ClipScores({}, "dark"))
        return found

    def identity(self):
        return {"darkest": self.darkest}


def level(name):
    return (IDS.index(name) + 1) / 10


def clip_batch(ids, valid=None):
    return ClipBatch(
        ids=ids,
        video=torch.stack([torch.full((FRAMES, 3, 4, 4), round(255 * level(name))) for name in ids]).to(torch.uint8),
        fps=FPS,
        audio=torch.stack([torch.full((FRAMES * RATE // 8,), level(name)) for name in ids]),
        sample_rate=RATE,
        captions=ids,
        video_ids=[name.partition("_")[0] for name in ids],
        valid=None if valid is None else torch.tensor(valid),
    )


def generation(batch):
    """Half as bright; the variant is as bright as the real clips."""
    real = batch.video / 255
    variant = Generation(real, FPS, batch.audio, RATE, batch, valid=batch.valid)
    return Generation(real / 2, FPS, batch.audio, RATE, batch, {"w0": variant}, batch.valid)


def test_every_kind_of_clip_has_its_mean_over_recordings(tmp_path):
    found = evaluated(tmp_path, ClipMetrics(Levels()), [generation(clip_batch(IDS))])
    wanted = (level(IDS[0]) / 2 + level(IDS[1]) / 2 + level(IDS[2]) + level(IDS[3])) / 3
    for name, value in {"": wanted / 2, "_w0": wanted, "_real": wanted}.items():
        assert found.results[f"brightness{name}"].value == pytest.approx(value, abs=3e-3)
        assert found.results[f"brightness{name}"].n == 3
    assert set(found.results) == {
        f"{metric}{kind}" for metric in Levels.higher_is_better for kind in ("", "_w0", "_real")
    }
    row = found.clip_rows[IDS[3]]
    assert row["scores"]["brightness"] == pytest.approx(level(IDS[3]) / 2, abs=3e-3)
    assert row["kinds"]["brightness_w0"] == "w0"
    assert found.results["brightness"].details["darkest"] == 0.0


def test_clips_without_a_score_are_counted_by_their_reason(tmp_path):
    found = evaluated(tmp_path, ClipMetrics(Levels(darkest=0.12)), [generation(clip_batch(IDS))])
    details = found.results["brightness"].details
    assert (details["n_clips"], details["n_dark"]) == (2, 2)
    assert found.clip_rows[IDS[0]]["scores"]["brightness"] is None
    assert found.clip_rows[IDS[0]]["brightness_problem"] == {"generated": "dark", "w0": "dark", "real": "dark"}


def test_where_no_clip_has_a_score_the_entry_is_left_out_and_said(tmp_path):
    with pytest.warns(UserWarning, match=r"no clip has brightness or together \(generated\): 4 dark"):
        found = evaluated(tmp_path, ClipMetrics(Levels(darkest=0.3)), [generation(clip_batch(IDS))])
    assert "brightness" not in found.results
    assert found.results["brightness_w0"].value > 0.3


def test_exchanged_sounds_come_from_the_next_recording(tmp_path):
    found = evaluated(tmp_path, ClipMetrics(Levels(), exchanged=True), [generation(clip_batch(IDS))])
    order = sorted(IDS)  # bell/c_0, frog/b_0, frog/b_1, hammering/a_0
    partners = dict(zip(order, [order[1], order[3], order[3], order[0]], strict=True))
    for name in IDS:
        wanted = level(name) / 2 * level(partners[name])
        assert found.clip_rows[name]["scores"]["together_chance"] == pytest.approx(wanted, abs=3e-3)
    assert found.results["together_chance"].n == 3


class Compared(Levels):
    """Looks at the real clips, too."""

    needs_reference: ClassVar = True

    def __init__(self):
        super().__init__()
        self.shown = []

    def score(self, generation, rows):
        self.shown += [generation.reference.video.shape[1]] * len(rows)
        return super().score(generation, rows)


def uint8_bytes():
    storages = [
        item.untyped_storage() for item in gc.get_objects() if type(item) is torch.Tensor and item.dtype == torch.uint8
    ]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_of_what_waits_for_another_sound_no_more_is_kept_than_is_looked_at(tmp_path):
    held = []

    class Given(JumpingSquares):
        def validation_step(self, batch, batch_idx):
            return generation(clip_batch([IDS[batch_idx]]))

    class Indices(SquareClips):
        def val_dataloader(self):
            return torch.utils.data.DataLoader(range(len(IDS)), batch_size=None)

    class Seen(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            held.append(uint8_bytes() - before)

    plain, compared = ClipMetrics(Levels(), name="plain", exchanged=True), ClipMetrics(Compared(), exchanged=True)
    for callbacks in ([plain, ClipMetrics(Levels(), name="too", exchanged=True)], [plain, compared]):
        before = uint8_bytes()
        trainer = quiet_trainer(tmp_path, callbacks=[Seen(), *callbacks])
        trainer.validate(Given(), datamodule=Indices(), verbose=False)
    one = FRAMES * 3 * 4 * 4
    # pictures once for both, of real clips the first; the last batch may still be there
    assert len(IDS) * one <= held[0] <= (len(IDS) * (1 + 2 / FRAMES) + 1) * one
    assert held[1] <= (len(IDS) * (2 + 1 / FRAMES) + 1) * one
    assert set(compared.scorer.shown) == {FRAMES}


def test_order_batches_and_repeats_do_not_matter(tmp_path):
    whole = evaluated(tmp_path, ClipMetrics(Levels(), exchanged=True), [generation(clip_batch(IDS))])
    parts = [clip_batch([IDS[2], IDS[0]]), clip_batch([IDS[3], IDS[1]]), clip_batch([IDS[0]], valid=[False])]
    found = evaluated(tmp_path, ClipMetrics(Levels(), exchanged=True), [generation(batch) for batch in parts])
    assert found.results.keys() == whole.results.keys()
    for name, result in whole.results.items():
        assert found.results[name].value == pytest.approx(result.value, rel=1e-6)


def test_real_clips_are_scored_once_in_a_run(tmp_path):
    callback = ClipMetrics(Levels())
    for _ in range(2):
        evaluated(tmp_path, callback, [generation(clip_batch(IDS))])
    assert len(callback.scorer.asked) == 2 * 2 * len(IDS) + len(IDS)


def test_two_scorers_of_a_kind_need_names(tmp_path):
    with pytest.raises(InputError, match="would both write 'brightness'"):
        quiet_trainer(tmp_path, callbacks=[ClipMetrics(Levels()), ClipMetrics(Levels(0.1))]).validate(
            JumpingSquares(), datamodule=SquareClips(), verbose=False
        )
    found = evaluated(tmp_path, ClipMetrics(Levels(), name="dim"), [generation(clip_batch(IDS))])
    assert "dim_brightness_w0" in found.results


def test_what_can_be_watched_is_known_from_the_configuration():
    arguments = {"scorer": {"class_path": f"{__name__}.Levels"}, "name": "dim"}
    logged = ClipMetrics.logged_names(arguments, ["w0"])
    assert {"dim_brightness", "dim_together_w0", "dim_brightness_real_low"} <= set(logged)


def test_a_wrong_scorer_is_named(tmp_path):
    class Silent(Levels):
        def score(self, generation, rows):
            return []

    callback = ClipMetrics(Silent())
    evaluated(tmp_path, callback, [generation(clip_batch(IDS))])
    (failure,) = callback.failures
    assert "Silent.score gave 0 scores for 4 clips" in failure.sentence
    assert not callback.results


_QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 1,
    "val_check_interval": 1,
}


def _training(tmp_path, callback, *others):
    trainer = quiet_trainer(
        tmp_path, max_steps=5, val_check_interval=1, limit_val_batches=1, callbacks=[callback, *others]
    )
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    return trainer


def test_a_slow_metric_is_measured_in_every_nth_validation_and_the_last(tmp_path):
    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append((self.global_step, bool(self.results)))

    _training(tmp_path, Seen(Levels(), every_n_evaluations=2))
    assert seen == [(1, False), (2, True), (3, False), (4, True), (5, True)]


def test_a_training_that_counts_epochs_ends_with_a_measured_validation(tmp_path):
    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append(bool(self.results))

    callback = Seen(Levels(), every_n_evaluations=100)
    trainer = quiet_trainer(tmp_path, max_epochs=3, limit_train_batches=2, limit_val_batches=1, callbacks=[callback])
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert seen == [False, False, True]


@pytest.mark.parametrize(
    "ends",
    [
        {"max_steps": 5, "val_check_interval": 2, "check_val_every_n_epoch": None},  # the fifth step has none
        {"max_steps": 5, "val_check_interval": 2, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2},
        {"max_epochs": 4, "check_val_every_n_epoch": 2},
        {"max_epochs": 5, "check_val_every_n_epoch": 2},  # nor has the fifth epoch
        {"max_epochs": 2, "val_check_interval": 2},  # nor the third batch
        {"max_epochs": 2, "max_steps": 100},
        {"max_epochs": 100, "max_steps": 4},
    ],
)
def test_the_last_validation_is_measured_wherever_a_training_ends(tmp_path, ends):
    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append(bool(self.results))

    callback = Seen(Levels(), every_n_evaluations=100)
    ends = {"max_epochs": -1, **ends}
    trainer = quiet_trainer(tmp_path, limit_train_batches=3, limit_val_batches=1, callbacks=[callback], **ends)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert seen and seen == [False] * (len(seen) - 1) + [True]


def test_a_training_that_is_told_to_stop_ends_with_a_measured_validation(tmp_path):
    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append((self.global_step, bool(self.results)))

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 2

    _training(tmp_path, Stop(), Seen(Levels(), every_n_evaluations=100))
    assert seen == [(1, False), (2, True)]


@pytest.mark.parametrize("stopped_at", [0, 1])
def test_a_validation_that_a_stop_breaks_off_counts_once(tmp_path, stopped_at):
    class Stopped(Exception):
        pass

    class Stop(L.Callback):
        def on_validation_batch_end(self, trainer, *_):
            if trainer.global_step == 2 and not (tmp_path / "stopped.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")
                raise Stopped

    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append((self.global_step, bool(self.results)))

    def fit(ckpt_path=None):
        callbacks = [Seen(Levels(), every_n_evaluations=2 + stopped_at), Stop()]
        trainer = AVSyncTrainer(**_QUIET, default_root_dir=tmp_path, max_steps=7, callbacks=callbacks)
        trainer.fit(JumpingSquares(), datamodule=SquareClips(), ckpt_path=ckpt_path)

    with pytest.raises(Stopped):
        fit()
    fit(tmp_path / "stopped.ckpt")
    interrupted = list(seen)
    seen.clear()
    fit()
    assert interrupted == seen


def test_a_training_that_early_stopping_ends_is_measured_once_more(tmp_path):
    seen = []

    class Seen(ClipMetrics):
        def conclude(self, trainer, module):
            seen.append((self.global_step, bool(self.results)))

    stopping = EarlyStopping(monitor="train/base", patience=1, mode="max", check_on_train_epoch_end=False)  # it falls
    callbacks = [Seen(Levels(), every_n_evaluations=100), stopping]
    trainer = AVSyncTrainer(**_QUIET, default_root_dir=tmp_path, max_steps=50, callbacks=callbacks)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert seen == [(1, False), (2, False), (2, True)]


def test_nobody_chooses_by_what_is_not_always_measured(tmp_path):
    watching = EarlyStopping(monitor="brightness")
    with pytest.raises(InputError, match=r"measures in every 2\. validation only"):
        _training(tmp_path, ClipMetrics(Levels(), every_n_evaluations=2), watching)


def test_training_is_the_same_with_and_without_it(tmp_path):
    weights = []
    for callbacks in ([], [ClipMetrics(Levels(), exchanged=True)]):
        torch.manual_seed(0)
        trainer = quiet_trainer(tmp_path, max_steps=3, val_check_interval=1, limit_val_batches=1, callbacks=callbacks)
        trainer.fit(JumpingSquares(), datamodule=SquareClips())
        weights.append(json.dumps([value.tolist() for value in trainer.model.state_dict().values()]))
        weights.append(torch.get_rng_state().tolist())
    assert weights[:2] == weights[2:]


def test_a_clip_as_a_batch_of_its_own():
    batch = replace(clip_batch(IDS), onsets=[(0.1,), (), (0.3,), ()], transcripts=["a", "b", "c", "d"])
    alone = batch.row(2)
    assert (alone.ids, alone.video_ids, alone.onsets, alone.transcripts) == ([IDS[2]], ["bell/c"], [(0.3,)], ["c"])
    assert torch.equal(alone.video, batch.video[2:3]) and torch.equal(alone.audio, batch.audio[2:3])
    assert alone.fps == FPS and alone.valid is None


class Together(ClipScorer):
    """How well each frame's brightness goes with the loudness of its time."""

    higher_is_better: ClassVar = {"together": True}

    def score(self, generation, rows):
        found = []
        for row in rows:
            bright = generation.video[row].mean(dim=(-3, -2, -1))
            loud = generation.audio[row].abs().unflatten(0, (len(bright), -1)).mean(dim=1)
            found.append(ClipScores({"together": torch.corrcoef(torch.stack([bright, loud]))[0, 1].item()}))
        return found

    def identity(self):
        return {}


def test_the_curve_over_moved_sounds_is_best_where_sound_and_picture_agree(tmp_path):
    flickering = torch.rand(len(IDS), 24, generator=torch.Generator().manual_seed(0))
    batch = replace(
        clip_batch(IDS),
        video=(255 * flickering[:, :, None, None, None].expand(-1, -1, 3, 4, 4)).to(torch.uint8),
        audio=flickering.repeat_interleave(10, dim=1),
        sample_rate=80,
    )
    # what was generated comes two frames late
    made = Generation((batch.video / 255).roll(2, dims=1), FPS, batch.audio, 80, batch)
    offsets = [-0.25, 0.0, 0.125, 0.25]
    found = evaluated(tmp_path, ClipMetrics(Together(), sound_offsets_s=offsets), [made]).results
    for name, best in {"together_real": "0", "together": "0.25"}.items():
        curve = {offset: value for offset, (value, *_) in found[name].details["by_sound_offset"].items()}
        assert list(curve) == ["-0.25", "0", "0.125", "0.25"]
        assert max(curve, key=curve.get) == best
        assert curve[best] == pytest.approx(1, abs=1e-3)
