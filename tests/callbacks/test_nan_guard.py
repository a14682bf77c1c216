import math
import re

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from callbacks.ema import EMA
from callbacks.nan_guard import NaNGuard
from callbacks.replay_file import Replay
from components.errors import InputError
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.callbacks.sick_squares import SickSquares, SickSyncphony
from tests.lightning_modules.tiny_module import TinyData, tiny_module
from tests.lightning_modules.tiny_module import trainer as tiny_trainer

SICK = "bell/c_0"  # in the third of three batches


def fit(folder, guard, module=None, callbacks=(), **settings):
    defaults = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "callbacks": [*callbacks, *([guard] if guard else [])],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_steps": 6,
        "limit_val_batches": 0,
    }
    torch.manual_seed(0)
    trainer = L.Trainer(**(defaults | settings))
    trainer.fit(module or JumpingSquares(), datamodule=SquareClips())
    return trainer


def finite(module):
    return all(p.isfinite().all() for p in module.parameters())


def test_the_step_and_the_part_are_named_and_the_weights_stay_sound(tmp_path):
    module = JumpingSquares(bad_at=2)
    told = r"the loss is nan at step 2 \(not finite: train/motion\), on rank 0 with clips bell/c_0, bell/c_1; "
    with pytest.raises(InputError, match=told + r"run it again with avsync replay .*step2_rank0.pt; lower"):
        fit(tmp_path, NaNGuard(), module)
    assert finite(module)


def test_a_sound_run_is_left_alone(tmp_path):
    assert fit(tmp_path, NaNGuard()).global_step == 6
    assert not (tmp_path / "replay").exists()


def test_steps_between_are_not_looked_at(tmp_path):
    with pytest.raises(InputError, match=r"at step 4.*set NaNGuard.every_n_steps to 1"):
        fit(tmp_path, NaNGuard(every_n_steps=4), JumpingSquares(bad_at=2))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"skip_steps": -1}, "skip_steps is -1"),
        ({"skip_steps": 1, "every_n_steps": 2}, "skip_steps is 1 but every_n_steps is 2"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        NaNGuard(**settings)


@pytest.mark.parametrize("clip", [None, 1.0], ids=["unclipped", "clipped"])
def test_a_gradient_that_is_not_finite_under_a_finite_loss(tmp_path, clip):
    module = SickSquares(SICK)
    with pytest.raises(InputError, match=r"the loss is \S+ at step 2 but 1 of 2 gradients are not finite") as caught:
        fit(tmp_path, NaNGuard(), module, gradient_clip_val=clip)
    assert "(layer.weight), on rank 0 with clips bell/c_0, bell/c_1; run it again" in str(caught.value)
    assert re.search(r"the loss is (\S+) at", str(caught.value))[1] not in ("nan", "inf")
    assert finite(module)


def test_of_accumulated_batches_the_bad_one_is_named(tmp_path):
    module = SickSquares("frog/b_0")  # the second of three
    with pytest.raises(InputError, match=r"at step 0 but .* with clips frog/b_0, frog/b_1;"):
        fit(tmp_path, NaNGuard(), module, accumulate_grad_batches=3)
    assert finite(module)
    with pytest.raises(InputError, match="the loss is nan at step 0, on rank 0 with clips frog/b_0, frog/b_1;"):
        fit(tmp_path, NaNGuard(), SickSquares("frog/b_0", loss=True), accumulate_grad_batches=3)


def test_damaged_clips_come_first(tmp_path):
    class Damaged(SquareClips):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            if SICK in batch.ids:
                batch.audio[1, 7] = math.inf
            return batch

    with pytest.raises(InputError, match=r"clips bell/c_1 \(its audio is not finite\), bell/c_0;"):
        L.Trainer(
            default_root_dir=tmp_path,
            logger=False,
            callbacks=[NaNGuard()],
            max_steps=4,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            limit_val_batches=0,
        ).fit(SickSquares(SICK), datamodule=Damaged())


def test_the_replay_file_holds_the_step(tmp_path):
    module = SickSquares(SICK)
    with pytest.raises(InputError):
        fit(tmp_path, NaNGuard(), module)
    assert [file.name for file in (tmp_path / "replay").iterdir()] == ["step2_rank0.pt"]
    replay = Replay.read(tmp_path / "replay" / "step2_rank0.pt")
    assert (replay.step, replay.rank, replay.world_size, replay.batch_idx, replay.epoch) == (2, 0, 1, 2, 0)
    assert replay.batch.ids == ["bell/c_0", "bell/c_1"] and replay.batch.video.shape[0] == 2
    assert torch.equal(replay.weights["state_dict"]["layer.weight"], module.layer.weight)
    with replay.random.restored(torch.device("cpu")):
        drawn = torch.rand(()).item()
    assert module.drawn[2] == module.drawn[3] == drawn  # the step, and again to find out whose it was


def test_replay_files_with_code_and_damaged_ones_are_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"told": Code()}, tmp_path / "code.pt")
    torch.save({"told": "nothing else"}, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    for name, sentence in [("code", "holds code"), ("other", "no replay file"), ("cut", "damaged"), ("gone", "exist")]:
        with pytest.raises(InputError, match=sentence):
            Replay.read(tmp_path / f"{name}.pt")


class Odd:
    """A batch that no replay file may hold."""

    ids = ("odd",)


def test_a_batch_that_cannot_be_kept_does_not_hide_what_is_wrong(tmp_path):
    class OddClips(SquareClips):
        def train_dataloader(self):
            return torch.utils.data.DataLoader([0], collate_fn=lambda _: Odd())

    with pytest.raises(InputError, match="with clip odd; batches that are a Odd cannot be kept to replay them; lower"):
        tiny_trainer(tmp_path, 2, callbacks=[NaNGuard()]).fit(SickSquares("odd"), OddClips())
    assert not list((tmp_path / "replay").iterdir())


def test_a_file_that_cannot_be_written_does_not_hide_what_is_wrong(tmp_path):
    (tmp_path / "replay").write_text("in the way")
    with pytest.raises(InputError, match=r"gradients are not finite .*step2_rank0.pt' could not be written .*; lower"):
        fit(tmp_path, NaNGuard(), SickSquares(SICK))


def states(trainer):
    return [
        {name: value.clone() for name, value in values.items()}
        for values in trainer.optimizers[0].state_dict()["state"].values()
    ]


class Record(L.Callback):
    """Weights, optimizer state and averages after every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weights = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        skipped = trainer.callback_metrics.get("train/skipped_steps")
        self.seen.append((weights, states(trainer), skipped))


def test_a_skipped_step_changes_nothing(tmp_path):
    record = Record()
    guard = NaNGuard(skip_steps=2)
    with pytest.warns(UserWarning, match="skipped a step, 1 of at most 2: the loss is .* with clips bell"):
        trainer = fit(tmp_path, guard, SickSquares(SICK), [EMA(0.5), record], gradient_clip_val=1.0)
    assert trainer.global_step == 6  # skipped ones count
    for step, changes in enumerate([True, False, True, True, False], start=1):
        before, after = record.seen[step - 1], record.seen[step]
        for name in ("layer.weight", "layer.bias", "ema.layer.weight"):
            assert torch.equal(before[0][name], after[0][name]) is not changes
        assert all(torch.equal(a["step"], b["step"]) is not changes for a, b in zip(before[1], after[1], strict=True))
        if not changes:
            torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert [file.name for file in (tmp_path / "replay").iterdir()] == ["step2_rank0.pt"]  # of the first
    assert guard.state_dict() == {"skipped": 2}


@pytest.mark.parametrize("loss", [True, False])
def test_more_bad_steps_than_may_be_skipped_end_the_training(tmp_path, loss):
    module, guard = SickSquares(SICK, loss), NaNGuard(skip_steps=1)
    with pytest.raises(
        InputError, match=r"at step 5.*; 1 step was skipped before, as many as NaNGuard.skip_steps allows"
    ):
        fit(tmp_path, guard, module)
    assert finite(module)
    resumed = NaNGuard(skip_steps=1)
    resumed.load_state_dict(guard.state_dict())
    with pytest.raises(InputError, match="at step 2"):  # what was skipped before counts
        fit(tmp_path, resumed, SickSquares(SICK, loss))
    assert NaNGuard().state_dict() == {}


def half(scale):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_steps_that_the_loss_scale_overflows_are_the_scalers(tmp_path):
    """At a scale of 4 the scaler skips twice and halves it; at 1 the scale has no part in it."""
    module, plugin = SickSquares(SICK), half(4.0)
    with pytest.raises(InputError, match="at step 8 but"):
        fit(tmp_path, NaNGuard(), module, plugins=[plugin], max_steps=12)
    assert plugin.scaler.get_scale() == 1 and finite(module)
    with pytest.raises(InputError, match="the loss is nan at step 2"):  # no scale makes nan of a loss
        fit(tmp_path, NaNGuard(), SickSquares(SICK, loss=True), plugins=[half(4.0)])


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_looking_changes_no_bit_and_the_norm_is_found_once(tmp_path, monkeypatch):
    norm_of = torch.nn.utils.clip_grad._get_total_norm
    found, by_clipping = {}, []

    def counted(*args, **kwargs):
        by_clipping.append(1)
        return norm_of(*args, **kwargs)

    monkeypatch.setattr(torch.nn.utils.clip_grad, "_get_total_norm", counted)
    for callbacks in ([NaNGuard()], []):
        module = tiny_module()
        tiny_trainer(tmp_path, 3, callbacks=callbacks, gradient_clip_val=0.01).fit(module, TinyData())
        found[len(callbacks)] = weights(module), len(by_clipping)
        assert module.gradient_norm is None
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    assert found[1][1] == 0 and found[0][1] == 3


def test_syncphony_says_what_was_drawn_for_the_clips(tmp_path):
    module = SickSyncphony(1)
    with pytest.raises(InputError, match=r"at step 1 but (\d+) of \1 gradients") as caught:
        tiny_trainer(tmp_path, 3, callbacks=[NaNGuard()], gradient_clip_val=1.0).fit(module, TinyData())
    stages = re.findall(r"clip1_\d \(stage (\d), noise 0\.\d\d of it\)", str(caught.value))
    assert stages == ["0", "1", "1", "2"]
    assert finite(module)
