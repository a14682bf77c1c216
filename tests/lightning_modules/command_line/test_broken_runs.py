"""What the machine does to a run is said in one sentence that names the file or the process."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule

from lightning_modules.command_line.broken_runs import broken_run_sentence
from lightning_modules.command_line.cli import main
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips

pytestmark = pytest.mark.gate

HERE = "tests.lightning_modules.command_line.test_broken_runs"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_config(data=f"{HERE}.FewSquares", callbacks=(), width=3, **trainer):
    content = {
        "model": {"class_path": "tests.callbacks.jumping_squares.JumpingSquares", "init_args": {"width": width}},
        "data": {"class_path": data},
        "trainer": {
            "max_steps": 3,
            "limit_val_batches": 0,
            "accelerator": "cpu",
            "logger": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "callbacks": list(callbacks),
            **trainer,
        },
    }
    Path("squares.yaml").write_text(yaml.safe_dump(content))


def complaint(said):
    (line,) = (line for line in said.splitlines() if line.startswith("error:"))
    return line


class FewSquares(SquareClips):
    """Batches of one clip."""

    def __init__(self):
        super().__init__(batch_size=1)


class KilledWorker(LightningDataModule):
    """Its worker process is killed, as a machine without memory does."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader(_Kills(), num_workers=1)


class _Kills(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


class RankOneDies(Callback):
    """A process is gone in the middle of a training."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            Path("died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_worker_is_named_with_its_likely_cause(capsys):
    write_config(data=f"{HERE}.KilledWorker")
    assert main(["fit", "--config", "squares.yaml"]) == 1
    said = complaint(capsys.readouterr().err)
    assert said.startswith("error: a worker process of the data loader (pid ")
    assert "ran out of memory" in said and "data.init_args.num_workers" in said
    assert "Traceback (most recent call last)" in Path("runs/squares/version_0/tracebacks.log").read_text()


def test_a_disk_that_is_full_when_a_checkpoint_is_written_is_named(capsys):
    every_step = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 1, "save_top_k": -1}}
    full = {"class_path": f"{HERE}.FullAfterTheFirst"}
    write_config(callbacks=[every_step, full], width=100_000)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        assert main(["fit", "--config", "squares.yaml"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = complaint(capsys.readouterr().err)
    folder = Path("runs/squares/version_0/checkpoints")
    assert said.startswith(f"error: checkpoint '{folder}/epoch=0-step=2.ckpt' cannot be written: File too")
    assert [path.name for path in folder.iterdir()] == ["epoch=0-step=1.ckpt"]
    assert "unexpected pos" in Path("runs/squares/version_0/tracebacks.log").read_text()


class FullAfterTheFirst(Callback):
    """Files of more than 100,000 bytes are refused from the second step on."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where not even root can write")
def test_where_checkpoints_cannot_be_written_is_found_before_the_model_is_built(capsys):
    keeps = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "/sys/kernel/mine"}}
    write_config(callbacks=[keeps])
    content = yaml.safe_load(Path("squares.yaml").read_text())
    content["model"] = {"class_path": f"{HERE}.NeverBuilt"}
    Path("squares.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", "squares.yaml"]) == 2
    assert "ModelCheckpoint.dirpath is '/sys/kernel/mine', where nothing" in complaint(capsys.readouterr().err)
    assert not Path("runs").exists()


class NeverBuilt(JumpingSquares):
    """A model that takes too long to build."""

    def __init__(self):
        raise AssertionError("the model was built before the folder was looked at")


def test_a_rank_that_is_gone_is_named_by_those_that_are_left():
    write_config(callbacks=[{"class_path": f"{HERE}.RankOneDies"}], devices=2, strategy="ddp", max_steps=5)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_modules", "fit", "--config", "squares.yaml"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert time.time() - float(Path("died").read_text()) < 30, "the others end soon"
    assert done.returncode == 1, done.stderr[-3000:]
    assert complaint(done.stderr).startswith("error: the connection to rank 1 was lost, and the run cannot go on")
    assert "Traceback" not in done.stderr
    assert "Traceback" in Path("runs/squares/version_0/tracebacks.log").read_text()


def test_other_errors_keep_their_own_words():
    def never():
        raise AssertionError("nobody is gone")

    assert broken_run_sentence(RuntimeError("Connection reset by peer"), never) is None, "a download, say"
    assert broken_run_sentence(OSError("the disk is gone"), never) is None
    late = RuntimeError("of something else")
    late.__context__ = PermissionError(13, "Permission denied", "cache")
    assert broken_run_sentence(late, never) is None
    full = OSError(28, "No space left on device", "clips/a.mp4")
    assert str(broken_run_sentence(full, never)).startswith("'clips/a.mp4' cannot be written or read: No space left")
