"""Signals in runs that count epochs: nothing that was accumulated is lost, and every run hears them."""

import json
import signal
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from tests.lightning_modules.command_line.test_cli import CONFIG, main, write_config

HERE = "tests.lightning_modules.command_line"
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


class Signals(L.Callback):
    """Sends SIGTERM to its own process once so many batches were trained, or in the validation behind them.

    Args:
        after: batches.
        in_validation: wait for the validation.
    """

    def __init__(self, after: int, in_validation: bool = False) -> None:
        self.after, self.in_validation, self.batches = after, in_validation, 0

    def on_train_batch_start(self, *_: object) -> None:
        self.batches += 1
        if self.batches == self.after and not self.in_validation:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_batch_start(self, *_: object) -> None:
        if self.batches == self.after and self.in_validation:
            signal.raise_signal(signal.SIGTERM)


def fit(*options, signals=None, **trainer):
    witness = [] if signals is None else [{"class_path": f"{HERE}.test_stops.Signals", "init_args": signals}]
    write_config(
        model={"class_path": f"{HERE}.learning_squares.LearningSquares", "init_args": {"optimizer": SGD}},
        data={**CONFIG["data"], "init_args": {"batch_size": 1}},
        trainer={
            **{name: CONFIG["trainer"][name] for name in ("accelerator", "log_every_n_steps", "num_sanity_val_steps")},
            "callbacks": [f"{HERE}.learning_squares.Noted", *witness],
            "max_steps": -1,
            **trainer,
        },
    )
    return main(["fit", "--config", "squares.yaml", *options])


def weights():
    return json.loads(Path("noted.json").read_text())["weights"]


@pytest.mark.parametrize(
    ("signals", "step", "trainer"),
    [
        # six batches an epoch, and a validation behind the third, in the middle of the second step
        (
            {"after": 3, "in_validation": True},
            2,
            {"max_epochs": 2, "val_check_interval": 0.5, "accumulate_grad_batches": 2, "check_val_every_n_epoch": 1},
        ),
        # epochs of one step
        ({"after": 3}, 2, {"max_epochs": 6, "limit_train_batches": 1, "limit_val_batches": 0}),
        ({"after": 4}, 1, {"max_epochs": 4, "accumulate_grad_batches": 6, "limit_val_batches": 0}),
        ({"after": 2}, 2, {"max_epochs": 4, "limit_train_batches": 2, "check_val_every_n_epoch": 4}),
    ],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(signals, step, trainer):
    assert fit(**trainer) == 0
    whole = weights()
    Path("noted.json").unlink()
    assert fit(signals=signals, **trainer) == 75
    stopped = Path("runs/squares/version_1/checkpoints/stopped.ckpt")
    assert torch.load(stopped, weights_only=True)["global_step"] == step
    assert not Path("noted.json").exists()
    assert fit("--ckpt_path", str(stopped), **trainer) == 0
    assert weights() == whole


def test_a_schedule_that_ends_before_the_epochs_do_is_named_before_the_first_step(capsys):
    one_cycle = {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 11}}
    options = ("--model.init_args.lr_scheduler", json.dumps(one_cycle))
    assert fit(*options, max_epochs=2, limit_val_batches=0) == 2
    said = capsys.readouterr().err
    assert "total_steps is 11, but the schedule is stepped 12 times (in trainer.max_epochs = 2)" in said
    assert not Path("noted.json").exists()
    assert fit(*options, max_epochs=2, limit_train_batches=5, limit_val_batches=0) == 0


@pytest.mark.parametrize(
    ("trainer", "when"),
    [
        ({"val_check_interval": 0.5}, "at a val_check_interval of 0.5"),
        ({"val_check_interval": 2, "check_val_every_n_epoch": 2}, "every so many steps of every 2. epoch"),
    ],
)
def test_validations_that_a_plateau_cannot_follow_are_named(capsys, trainer, when):
    plateau = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "cyclesync"}}
    judge = {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}}
    options = ("--model.init_args.lr_scheduler", json.dumps(plateau), "--trainer.callbacks+", json.dumps(judge))
    assert fit(*options, max_epochs=2, **trainer) == 2
    assert f"cannot follow validations that come {when}; give" in capsys.readouterr().err


def test_a_plateau_is_told_of_every_validation_once():
    plateau = {
        "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "cyclesync_real", "mode": "max", "factor": 0.1, "patience": 0},
    }
    judge = {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}}
    options = ("--model.init_args.lr_scheduler", json.dumps(plateau), "--trainer.callbacks+", json.dumps(judge))
    # real clips score alike in every validation: each one but the first takes the rate down
    assert fit(*options, max_epochs=5, limit_train_batches=1, check_val_every_n_epoch=2) == 0
    groups = json.loads(Path("noted.json").read_text())["groups"]
    assert [group["lr"] for _, group in groups] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01])


def test_nothing_is_logged_where_that_was_asked_for():
    report = {"class_path": "SampleReport"}
    assert fit("--trainer.callbacks+", json.dumps(report), max_epochs=1, log_every_n_steps=0) == 0
