"""What comes after what in a run that was stopped and goes on: no step and no validation is left out or done twice."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.graceful_stop import GracefulStop, RunStopped
from lightning_modules.command_line.trainer import AVSyncTrainer

BY_STEPS: dict[str, Any] = {
    "max_steps": 6,
    "max_epochs": -1,
    "val_check_interval": 3,
    "check_val_every_n_epoch": None,
}
BY_EPOCHS: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 3}
WHOLE = ["t1", "t2", "t3", "V3", "v3.0", "v3.1", "t4", "t5", "t6", "V6", "v6.0", "v6.1", "end"]


class Told(L.Callback):
    """Notes what happens, sends a signal or saves a checkpoint at one of these moments."""

    def __init__(self, signal_at: str = "", save_at: str = "", file: Path = Path()) -> None:
        self.signal_at, self.save_at, self.file = signal_at, save_at, file
        self.told: list[str] = []

    def note(self, trainer: L.Trainer, moment: str) -> None:
        self.told.append(moment)
        if moment == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if moment == self.save_at:
            trainer.save_checkpoint(self.file)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.note(trainer, f"t{trainer.global_step}")

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.note(trainer, f"V{trainer.global_step}")

    def on_validation_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.note(trainer, f"v{trainer.global_step}.{arguments[3]}")

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.note(trainer, "end")


def run(folder: Path, told: Told, ckpt_path: Path | None = None, **settings: Any) -> list[str]:
    L.seed_everything(0, verbose=False)
    trainer = AVSyncTrainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=2,
        callbacks=[told, GracefulStop()],
        **settings,
    )
    trainer.write_into(folder)
    try:
        trainer.fit(BoringModel(), ckpt_path=ckpt_path, weights_only=False)
    except RunStopped:
        told.told.append("stopped")
    return told.told


@pytest.mark.parametrize("settings", [BY_STEPS, BY_EPOCHS], ids=["steps", "epochs"])
@pytest.mark.parametrize(
    ("told", "stops_after", "goes_on_with"),
    [("t2", "t2", "t3"), ("t3", "V3", "V3"), ("v3.0", "v3.0", "V3"), ("t6", "V6", "V6"), ("v6.0", "v6.0", "V6")],
)
def test_a_stopped_run_goes_on_with_the_validation_it_still_owed(
    tmp_path: Path, settings: dict[str, Any], told: str, stops_after: str, goes_on_with: str
) -> None:
    done = run(tmp_path, Told(signal_at=told), **settings)
    assert done == [*WHOLE[: WHOLE.index(stops_after) + 1], "stopped"]
    went_on = run(tmp_path / "on", Told(), tmp_path / "checkpoints/stopped.ckpt", **settings)
    assert went_on == WHOLE[WHOLE.index(goes_on_with) :]


def test_a_run_that_is_told_to_stop_at_its_last_step_and_has_nothing_to_validate_just_ends(tmp_path: Path) -> None:
    done = run(tmp_path, Told(signal_at="t4"), max_steps=4, val_check_interval=3, check_val_every_n_epoch=None)
    assert done == ["t1", "t2", "t3", "V3", "v3.0", "v3.1", "t4", "end"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("save_at", "expected"), [("t3", WHOLE[6:]), ("t6", WHOLE[9:])])
def test_a_checkpoint_written_right_before_the_last_validation_brings_it_again(
    tmp_path: Path, save_at: str, expected: list[str]
) -> None:
    """A killed run's last checkpoint; in the middle of a training the next validation is soon enough."""
    file = tmp_path / "last.ckpt"
    assert run(tmp_path, Told(save_at=save_at, file=file), **BY_STEPS) == WHOLE
    assert run(tmp_path, Told(), file, **BY_STEPS) == expected
