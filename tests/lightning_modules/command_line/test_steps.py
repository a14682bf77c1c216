"""Intervals of the command line are optimizer steps, also where batches are accumulated."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import lightning as L
import pytest

from tests.lightning_modules.command_line.test_cli import CONFIG, run, write_config

HERE = "tests.lightning_modules.command_line.learning_squares"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


def validations(max_steps, *options):
    write_config(
        data={**CONFIG["data"], "init_args": {"batch_size": 1}},
        trainer__max_steps=max_steps,
        trainer__accumulate_grad_batches=2,
        trainer__val_check_interval=2,
        trainer__check_val_every_n_epoch=None,
        trainer__callbacks=[
            f"{HERE}.Noted",
            {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 3, "save_top_k": -1}},
        ],
    )
    assert run("fit", *options) == 0
    return json.loads(Path("noted.json").read_text())["validations"]


def test_validations_come_after_steps_not_batches_and_a_run_goes_on_between_them():
    assert validations(6) == [2, 4, 6]
    middle = next(Path("runs").rglob("*step=3.ckpt"))
    assert validations(6, "--ckpt_path", str(middle)) == [4, 6]


class Steps(L.Callback):
    """Keeps how many steps were made after each batch of the run."""

    made: ClassVar[list[int]] = []

    def on_train_start(self, *_):
        Steps.made = []

    def on_train_batch_end(self, trainer, *_):
        Steps.made.append(trainer.global_step)


@pytest.mark.parametrize(
    ("before", "now", "steps", "made"), [(1, 2, 1, [1, 2, 2, 3]), (2, 1, 3, [4, 5]), (3, 2, 3, [3, 4, 4, 5])]
)
def test_a_step_is_whole_where_a_run_goes_on_with_other_batches_to_it(before, now, steps, made):
    """As where two processes go on as one: after an odd number of steps the first one was of a single batch."""

    def fit(max_steps, accumulated, *options):
        write_config(
            data={**CONFIG["data"], "init_args": {"batch_size": 1, "count": 6}},
            trainer__max_steps=max_steps,
            trainer__accumulate_grad_batches=accumulated,
            trainer__limit_val_batches=0,
            trainer__callbacks=[f"{__name__}.Steps", "ModelCheckpoint"],
        )
        assert run("fit", *options) == 0

    fit(steps, before)
    fit(steps + 2, now, "--ckpt_path", "last")
    assert Steps.made == made
