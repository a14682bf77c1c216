"""What cannot hold is refused before anything is built."""

import copy
import importlib
import importlib.util
import sys
import time
from pathlib import Path

import pytest

from components.errors import InputError
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.preflight import check_settings
from lightning_modules.command_line.startup import import_own_modules
from tests.lightning_modules.command_line.test_cli import complaint, run, write_config

LR = "torch.optim.lr_scheduler"
WATCH = "lightning.pytorch.callbacks.ModelCheckpoint"
CONFIG = {
    "model": {
        "class_path": "lightning_modules.syncphony.SyncphonyModule",
        "init_args": {
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
            "lr_scheduler": {"class_path": f"{LR}.OneCycleLR", "init_args": {"max_lr": 0.003, "total_steps": 700}},
            "pyramid": None,
            "variants": ["w0"],
        },
    },
    "data": {
        "class_path": "datamodules.procedural_clips.ProceduralClips",
        "init_args": {"batch_size": 4},
    },
    "trainer": {
        "max_steps": 700,
        "accelerator": "cpu",
        "devices": "auto",
        "num_nodes": 1,
        "accumulate_grad_batches": 1,
        "precision": "bf16-mixed",
        "logger": None,
        "callbacks": [{"class_path": "callbacks.cyclesync.CycleSyncCallback", "init_args": {}}],
    },
    "callbacks": {"best": {"class_path": WATCH, "init_args": {"monitor": "cyclesync_w0"}}},
}


@pytest.fixture(scope="module", autouse=True)
def parsed():
    """A parser imports what a configuration names."""
    import_own_modules()
    importlib.import_module("tests.lightning_modules.command_line.learning_squares")


def changed(**changes):
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = config
        for part in path:
            inner = inner[part]
        inner[last] = value
    return config


def sequence(*lengths):
    """A warm-up of ten steps and a cycle of each of the lengths."""
    cycles = [{"class_path": f"{LR}.OneCycleLR", "init_args": {"max_lr": 0.003, "total_steps": n}} for n in lengths]
    init = {"schedules": [{"class_path": f"{LR}.LinearLR", "init_args": {}}, *cycles], "milestones": [10]}
    return {"class_path": "components.optimization.schedule_sequence.ScheduleSequence", "init_args": init}


def test_settings_that_hold_pass():
    check_settings("fit", CONFIG)
    check_settings("fit", changed(model__init_args__lr_scheduler=sequence(690)))
    check_settings("fit", changed(data__init_args__batch_size=1, trainer__accumulate_grad_batches=4))
    check_settings("fit", changed(data__init_args__batch_size=2, trainer__devices=2))
    check_settings("fit", changed(callbacks__best__init_args={"monitor": "train/base_stage2"}))
    check_settings("fit", changed(model__init_args__optimizer__init_args={"lr": 0.001}))  # AdamW's own
    check_settings("validate", changed(trainer__max_steps=900))
    user = {"class_path": "tests.lightning_modules.command_line.learning_squares.Noted"}  # may log anything
    check_settings("fit", changed(callbacks={**CONFIG["callbacks"], "mine": user}, callbacks__best__init_args=None))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trainer__max_steps": 900}, r"lr_scheduler.total_steps is 700, .* set total_steps to 900"),
        (
            {"model__init_args__lr_scheduler": sequence(600)},
            r"lr_scheduler.schedules.1.total_steps is 600, .* stepped 690 times .* set total_steps to 690",
        ),
        (
            {"model__init_args__optimizer__init_args": {"lr": 0.01}},
            r"optimizer.lr is 0.01, but .* max_lr, 0.003; set both",
        ),
        (
            {"model__init_args__lr_scheduler": {"class_path": f"{LR}.ReduceLROnPlateau"}},
            "use lightning.pytorch.cli.ReduceLROnPlateau with its monitor",
        ),
        ({"model__init_args__optimizer": {"class_path": "torch.optim.Muon"}}, "use components.optimization.MuonAdamW"),
        ({"trainer__precision": "bf16-true"}, r"trainer.precision is bf16-true, .* use bf16-mixed"),
        ({"trainer__precision": "16-true"}, r"use 16-mixed"),
        ({"trainer__precision": 64}, r"trainer.precision is 64, .* use 32-true"),
        (
            {"callbacks__best__init_args": {"monitor": "cyclesinc"}},
            r"callbacks.best.monitor is 'cyclesinc', which nothing logs; did you mean cyclesync\?",
        ),
        (
            {"callbacks__best__init_args": {"monitor": "cyclesync_off_sync"}},  # a variant that is not generated
            r"nothing logs; .*logged: loss, train/loss, .*cyclesync_w0_high",
        ),
        (
            {
                "model__init_args__lr_scheduler": {
                    "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
                    "init_args": {"monitor": "val/los"},
                }
            },
            "model.lr_scheduler.monitor is 'val/los'",
        ),
        ({"data__init_args__batch_size": 6}, r"a batch of 6 clips is not a multiple of 4 columns: set data.batch_size"),
        ({"data__init_args__batch_size": 1, "trainer__devices": 2}, "a batch of 1 clips .* accumulate_grad_batches"),
    ],
)
def test_settings_that_cannot_hold_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        check_settings("fit", changed(**changes))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_named_with_its_package():
    logger = {"class_path": "lightning.pytorch.loggers.wandb.WandbLogger"}
    for given in (logger, [logger]):
        with pytest.raises(InputError, match=r"WandbLogger, but wandb is not installed: pip install wandb"):
            check_settings("validate", changed(trainer__logger=given))


def named(class_path, key, value):
    section = {"class_path": class_path, "init_args": {key: value}}
    if class_path.startswith("datamodules"):
        return changed(data=section), f"data.{key}"
    if class_path.startswith("lightning_modules"):
        return changed(model=section), f"model.{key}"
    return changed(trainer__callbacks={"class_path": WATCH, "init_args": {"dirpath": section}}), key


@pytest.mark.parametrize(
    ("class_path", "key"),
    [
        ("datamodules.avsync15.AVSync15", "root"),
        ("datamodules.greatest_hits.TheGreatestHits", "root"),
        ("datamodules.speech_clips.SpeechClips", "root"),
        ("components.v2a.onset_v2a.OnsetV2A.from_pretrained", "folder"),
        ("components.metrics.syncnet.model.SyncNet.from_pretrained", "source"),
        ("components.metrics.faces.mtcnn.MTCNN", "source"),
        ("components.metrics.faces.s3fd.S3FD", "source"),
        ("components.backbones.pyramid_flow.pretrained_backbone", "folder"),
        ("components.backbones.wan.wan_tower", "folder"),
        ("components.codecs.audio.mmaudio.MMAudioCodec", "vae"),
        ("components.codecs.video.wan.WanVideoCodec", "folder"),
        ("components.backbones.harmony.load_harmony", "folder"),
        ("components.backbones.syncphony.SyncphonyDiT", "audio_weights"),
    ],
)
def test_missing_files_are_found_without_building_anything(class_path, key, tmp_path):
    missing = str(tmp_path / "not there")
    config, place = named(class_path, key, missing)
    for subcommand in ("fit", "predict"):
        with pytest.raises(InputError, match=rf"{place}: .*'?{missing}'? "):
            check_settings(subcommand, config)
    # what is there passes, whatever it holds
    check_settings("predict", named(class_path, key, str(tmp_path))[0])
    if class_path.startswith("datamodules"):
        check_settings("export", config)


def test_it_is_the_command_that_looks(tmp_path, monkeypatch, capsys):
    """Before models are built: stage 1 of Harmony has 5 B weights, but no manifest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    begun = time.monotonic()
    codec = "--model.init_args.audio_codec=components.codecs.audio.log_mel.LogMelCodec"
    assert main(["fit", "--config", "configs/harmony/stage1_audio.yaml", codec]) == 2
    assert complaint(capsys) == "error: data.root: 'data/speech.jsonl' does not exist; give an existing path"
    assert time.monotonic() - begun < 60 and not Path("runs").exists()
    write_config(trainer__logger="WandbLogger")
    assert run("fit") == 2 and "pip install wandb" in complaint(capsys)
