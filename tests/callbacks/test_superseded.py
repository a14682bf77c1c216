"""Runs that go on with ``--ckpt_path last`` leave one full checkpoint of the experiment, not one for every start."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml

from lightning_modules.command_line.cli import main

SQUARES = "tests.callbacks.jumping_squares"


class StopsItself(L.Callback):
    """Sends the process SIGTERM after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "seed_everything": 7,
        "model": {"class_path": f"{SQUARES}.JumpingSquares"},
        "data": {"class_path": f"{SQUARES}.SquareClips"},
        "trainer": {
            "val_check_interval": 1,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
        },
        "callbacks": {
            "cyclesync": {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}},
            "last": checkpoint(save_last="link", every_n_train_steps=1),
            "best": checkpoint(monitor="cyclesync", mode="max", filename="best"),
            "each": checkpoint(save_top_k=-1, every_n_train_steps=2, filename="each-{step}"),
            "slim": {"class_path": "SlimCheckpoint"},
        },
    }
    Path("squares.yaml").write_text(yaml.safe_dump(content))


def checkpoint(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "ModelCheckpoint", "init_args": arguments}


def fit(max_steps: int, *options: str) -> int:
    return main(["fit", "--config", "squares.yaml", f"--trainer.max_steps={max_steps}", *options])


def kept(version: int) -> set[str]:
    return {path.name for path in Path(f"runs/squares/version_{version}/checkpoints").iterdir()}


def test_what_was_kept_to_go_on_from_is_removed():
    stop = [f"--callbacks.stop={__name__}.StopsItself", "--callbacks.stop.init_args.step=3"]
    assert fit(9, *stop) == 75
    scored = {"best.ckpt", "each-step=2.ckpt"}
    assert kept(0) >= scored | {"last.ckpt", "stopped.ckpt"}
    assert fit(4, "--ckpt_path", "last") == 0
    assert kept(0) == scored
    ended = kept(1)
    assert {"last.ckpt", "best.ckpt", "each-step=4.ckpt", "slim.ckpt"} <= ended
    # a run that came to its end has results, not leftovers
    assert fit(5, "--ckpt_path", "last") == 0
    assert kept(1) == ended


def test_a_file_of_the_users_choice_is_not_touched():
    stop = [f"--callbacks.stop={__name__}.StopsItself", "--callbacks.stop.init_args.step=3"]
    assert fit(9, *stop) == 75
    before = kept(0)
    assert fit(4, "--ckpt_path", "runs/squares/version_0/checkpoints/stopped.ckpt") == 0
    assert kept(0) == before


def test_a_stopped_run_is_superseded_by_the_next_stop():
    stop = f"--callbacks.stop={__name__}.StopsItself"
    unsaved = [f"--callbacks.{name}=null" for name in ("best", "each", "slim")]
    # Lightning would save at the end of an epoch, which has more steps than these runs
    rarely = ["--callbacks.last.init_args.every_n_train_steps=50", "--trainer.limit_val_batches=0"]
    assert fit(9, *unsaved, *rarely, stop, "--callbacks.stop.init_args.step=1") == 75
    assert kept(0) == {"stopped.ckpt"}
    assert fit(9, *unsaved, *rarely, stop, "--callbacks.stop.init_args.step=2", "--ckpt_path", "last") == 75
    assert kept(0) == set() and kept(1) == {"stopped.ckpt"}
    # a run that fails before it has a checkpoint of its own takes nothing away
    raising = "--model.init_args.fail_at=2"
    with pytest.raises(OSError):
        fit(9, *unsaved, *rarely, raising, "--trainer.limit_val_batches=1", "--ckpt_path", "last")
    assert kept(1) == {"stopped.ckpt"}
    assert fit(4, *unsaved, "--callbacks.last.init_args.every_n_train_steps=3", "--ckpt_path", "last") == 0
    assert kept(1) == set() and "last.ckpt" in kept(3)
