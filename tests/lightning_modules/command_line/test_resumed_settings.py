"""Going on with other settings: the configuration decides, at the step that was reached, and the difference is told."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from tests.lightning_modules.command_line.test_cli import CONFIG, complaint, run, write_config

HERE = "tests.lightning_modules.command_line.learning_squares"
LR = "torch.optim.lr_scheduler"
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.01}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


def one_cycle(total_steps):
    init = {"max_lr": 0.1, "total_steps": total_steps, "pct_start": 0.3}
    return {"class_path": f"{LR}.OneCycleLR", "init_args": init}


def linear(total_iters):
    return {"class_path": f"{LR}.LinearLR", "init_args": {"start_factor": 0.1, "total_iters": total_iters}}


def warm_cosine(steps):
    cosine = {"class_path": f"{LR}.CosineAnnealingLR", "init_args": {"T_max": steps}}
    init = {"schedules": [linear(2), cosine], "milestones": [2]}
    return {"class_path": "components.optimization.ScheduleSequence", "init_args": init}


def fit(max_steps, *options, schedule=None, optimizer=ADAMW, **changes):
    init = {"optimizer": optimizer, "lr_scheduler": schedule}
    changes = {
        "model": {"class_path": f"{HERE}.LearningSquares", "init_args": init},
        "trainer__max_steps": max_steps,
        "trainer__limit_val_batches": 0,
        "trainer__callbacks": [f"{HERE}.Noted", "ModelCheckpoint"],
        **changes,
    }
    write_config(**changes)
    return run("fit", *options)


def noted():
    return json.loads(Path("noted.json").read_text())


def newest():
    return str(max(Path("runs").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns))


def uninterrupted(steps, build):
    """The rates of a run that had the schedule from the beginning."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def built_sequence(optimizer):
    warm = schedules.LinearLR(optimizer, 0.1, total_iters=2)
    return schedules.SequentialLR(optimizer, [warm, schedules.CosineAnnealingLR(optimizer, 9)], [2])


@pytest.mark.parametrize(
    ("before", "now", "build"),
    [
        (one_cycle(4), one_cycle(7), lambda o: schedules.OneCycleLR(o, 0.1, 7, pct_start=0.3)),
        (linear(20), linear(5), lambda o: schedules.LinearLR(o, 0.1, total_iters=5)),
        (warm_cosine(4), warm_cosine(9), built_sequence),
        (linear(5), warm_cosine(9), built_sequence),
        (one_cycle(4), None, lambda o: schedules.ConstantLR(o, 1.0)),
    ],
    ids=["longer OneCycle", "LinearLR", "sequence", "another kind", "none any more"],
)
def test_the_new_schedule_goes_on_at_the_step_reached(before, now, build, caplog):
    assert fit(3, schedule=before) == 0
    checkpoint = newest()
    caplog.clear()
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.3}}
    assert fit(6, "--ckpt_path", checkpoint, schedule=now, optimizer=optimizer) == 0
    resumed, said = noted()["groups"], caplog.text
    assert [step for step, _ in resumed] == [3, 4, 5]
    assert [group["lr"] for _, group in resumed] == uninterrupted(6, build)[3:]
    assert resumed[0][1]["weight_decay"] == 0.3
    assert f"going on from '{checkpoint}' with other settings than it was made with" in said
    assert "\n  model.optimizer.weight_decay: 0.01 -> 0.3\n" in said
    assert "\n  trainer.max_steps: 3 -> 6\n" in said and "model.lr_scheduler" in said
    assert "ckpt_path:" not in said and "experiment" not in said


def test_unchanged_settings_resume_bit_for_bit(caplog):
    assert fit(6, schedule=one_cycle(6)) == 0
    whole = noted()
    assert fit(3, schedule=one_cycle(6)) == 0
    caplog.clear()
    assert fit(6, "--ckpt_path", newest(), schedule=one_cycle(6)) == 0
    assert noted()["weights"] == whole["weights"] and noted()["groups"] == whole["groups"][3:]
    told = caplog.text.partition("the new ones count:\n")[2].splitlines()
    assert told[0] == "  trainer.max_steps: 3 -> 6" and not told[1].startswith("  ")


def test_a_schedule_that_ends_before_the_step_reached_is_refused(capsys):
    assert fit(5) == 0
    assert fit(-1, "--ckpt_path", newest(), schedule=one_cycle(3), trainer__max_epochs=4) == 2
    assert "OneCycleLR ends after step 3, but the checkpoint has reached step 5" in complaint(capsys)


def test_another_optimizer_is_refused_before_anything_is_built(capsys):
    assert fit(2) == 0
    checkpoint = newest()
    assert fit(4, "--ckpt_path", checkpoint, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}) == 2
    sentence = complaint(capsys)
    assert "model.optimizer: ckpt_path" in sentence and "torch.optim.AdamW" in sentence and "init_from" in sentence
    assert len(list(Path("runs/squares").iterdir())) == 1
    assert (
        fit(4, "--ckpt_path", checkpoint, optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}) == 0
    )


def plateau(factor, monitor="cyclesync"):
    """Falls at every validation but the first, since CycleSync never gets smaller."""
    init = {"monitor": monitor, "mode": "min", "patience": 0, "factor": factor}
    return {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": init}


def test_a_schedule_that_follows_a_metric_keeps_what_it_has_come_down_to():
    judge = {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}}
    common = {
        "data": {**CONFIG["data"], "init_args": {"batch_size": 1}},
        "trainer__limit_val_batches": None,
        "trainer__val_check_interval": 2,
        "trainer__check_val_every_n_epoch": None,
        "trainer__callbacks": [
            f"{HERE}.Noted",
            judge,
            {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 5}},
        ],
    }
    assert fit(5, schedule=plateau(0.1), **common) == 0
    assert [group["lr"] for _, group in noted()["groups"]] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01])
    checkpoint = newest()
    assert fit(7, "--ckpt_path", checkpoint, schedule=plateau(0.5), **common) == 0
    assert [group["lr"] for _, group in noted()["groups"]] == pytest.approx([0.01, 0.005])
    slower = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}}
    assert fit(7, "--ckpt_path", checkpoint, schedule=plateau(0.5), optimizer=slower, **common) == 0
    assert [group["lr"] for _, group in noted()["groups"]] == pytest.approx([0.02, 0.01])
