"""Checkpoints written in the background keep every promise of those that training waits for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.graceful_stop import GracefulStop, RunStopped
from components.errors import InputError
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.background import BackgroundCheckpointIO, BackgroundWriter
from lightning_modules.checkpoints.check import check_checkpoint
from lightning_modules.checkpoints.chosen import newest_checkpoint
from lightning_modules.command_line.trainer import AVSyncTrainer
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from tests.lightning_modules.checkpoints.test_storage import small_files
from tests.lightning_modules.tiny_module import TinyData, tiny_module, trainer
from tests.ranks import run_ranks

FORMS = ["file", "folder"]


class Held:
    """Takes until ``gate`` opens to be written."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def __deepcopy__(self, memo: Any) -> Held:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        assert self.gate.wait(60)
        return OrderedDict, ()


def content(step: int, **more: Any) -> dict[str, Any]:
    state = {"state": {0: {"exp_avg": torch.full((5,), step + 0.5)}}, "param_groups": [{"params": [0]}]}
    return {
        "state_dict": {"weight": torch.full((5,), float(step))},
        "optimizer_states": [state],
        "pytorch-lightning_version": "2.6.0",
        "global_step": step,
        **more,
    }


def saver(form: str) -> tuple[BackgroundCheckpointIO, FSDP2Strategy | BackgroundCheckpointIO]:
    """What writes in the background, and what is asked to save and remove."""
    io = BackgroundCheckpointIO()
    if form == "file":
        return io, io
    strategy = FSDP2Strategy()
    strategy.checkpoint_io = io
    return io, strategy


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def step_of(path: Path) -> int:
    check_checkpoint(str(path), content="everywhere")
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert found["state_dict"]["weight"].tolist() == [found["global_step"]] * 5
    assert found["optimizer_states"][0]["state"][0]["exp_avg"].tolist() == [found["global_step"] + 0.5] * 5
    return int(found["global_step"])


@pytest.mark.parametrize("form", FORMS)
def test_training_goes_on_and_changes_nothing_that_was_given(form: str, tmp_path: Path):
    (io, save), gate, path = saver(form), threading.Event(), tmp_path / "a.ckpt"
    given = content(1, held=Held(gate))
    save.save_checkpoint(given, path)
    given["state_dict"]["weight"].zero_()  # the next step
    given["optimizer_states"][0]["state"][0]["exp_avg"].zero_()
    given["global_step"] = 2
    assert not path.exists()
    threading.Timer(0.2, gate.set).start()
    assert io.load_checkpoint(path)["global_step"] == 1  # loading waits
    assert step_of(path) == 1
    io.teardown()


def test_a_folder_that_is_being_written_is_read_into_shards_once_it_is_there(tmp_path: Path):
    (io, strategy), gate, path = saver("folder"), threading.Event(), tmp_path / "a.ckpt"
    assert isinstance(strategy, FSDP2Strategy)
    strategy._lightning_module = tiny_module()
    strategy.save_checkpoint(content(1, held=Held(gate)), path)
    threading.Timer(0.2, gate.set).start()
    found = strategy.load_checkpoint(path)
    # of what this module has no place for nothing is read; a file would have been read whole, by every process
    assert found["global_step"] == 1 and found["state_dict"]["weight"].is_meta
    io.teardown()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_replaced_goes_once_the_other_is_whole(form: str, tmp_path: Path):
    (io, save), gate, old, new = saver(form), threading.Event(), tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    save.save_checkpoint(content(1), old)
    save.save_checkpoint(content(2, held=Held(gate)), new)
    save.remove_checkpoint(old)
    time.sleep(0.1)
    assert step_of(old) == 1 and not new.exists()
    gate.set()
    io.teardown()
    assert step_of(new) == 2 and [path.name for path in tmp_path.iterdir()] == ["2.ckpt"]
    save.remove_checkpoint(new)  # nothing is under way: at once
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_a_run_killed_meanwhile_leaves_the_checkpoint_before_as_the_newest(form: str, tmp_path: Path):
    checkpoints = tmp_path / "version_0" / "checkpoints"
    checkpoints.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        (_, save), last = saver(form), checkpoints / "last.ckpt"
        save.save_checkpoint(content(1), checkpoints / "1.ckpt")
        last.symlink_to("1.ckpt")
        save.save_checkpoint(content(2, held=Held(threading.Event())), checkpoints / "2.ckpt")
        save.remove_checkpoint(checkpoints / "1.ckpt")
        last.unlink()
        last.symlink_to("2.ckpt")
        wait_for((checkpoints / ".2.ckpt.part").exists)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert {path.name for path in checkpoints.iterdir()} == {"1.ckpt", ".2.ckpt.part", "last.ckpt"}
    newest = newest_checkpoint(tmp_path, to_train=True)
    assert newest.name == "1.ckpt" and step_of(newest) == 1
    with pytest.raises(
        InputError, match=r"last\.ckpt' is a link to '2\.ckpt', which is not there .*give ckpt_path last"
    ):
        check_checkpoint(str(checkpoints / "last.ckpt"))


@pytest.mark.parametrize("form", FORMS)
def test_what_the_disk_refuses_is_raised_by_what_comes_next(form: str, tmp_path: Path):
    (io, save), old, new = saver(form), tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    save.save_checkpoint(content(1), old)
    large = content(2, more={"weights": torch.ones(300_000)})
    large["state_dict"]["large"] = torch.ones(300_000)
    for next_one in (lambda: save.save_checkpoint(content(3), tmp_path / "3.ckpt"), io.teardown):
        gate = threading.Event()
        save.save_checkpoint({**large, "held": Held(gate)}, new)
        save.remove_checkpoint(old)
        with small_files(), pytest.raises(InputError, match=r"2\.ckpt' cannot be written: File too large"):
            threading.Timer(0.1, gate.set).start()
            next_one()
        assert [path.name for path in tmp_path.iterdir()] == ["1.ckpt"] and step_of(old) == 1
    io.teardown()  # told once


def test_one_thing_after_the_other():
    writer, gate, done = BackgroundWriter(), threading.Event(), []
    writer.submit(lambda: done.append(gate.wait(60)))
    for number in range(3):
        writer.after(lambda number=number: done.append(number))
    assert not done
    gate.set()
    writer.close()
    assert done == [True, 0, 1, 2]


def test_what_failed_is_raised_where_all_processes_wait_and_not_where_one_removes():
    writer, done = BackgroundWriter(), list[str]()
    writer.submit(lambda: done.remove("nothing"))
    wait_for(lambda: writer._pending[0].done())
    writer.after(lambda: done.append("removed"))
    assert not done
    with pytest.raises(ValueError):
        writer.wait()
    writer.after(lambda: done.append("removed"))
    assert done == ["removed"]
    writer.close()


class Stopped(Callback):
    """Tells the run to stop, whose checkpoint is written slowly, and notes what there is when nobody holds signals."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.was_whole = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        gate = threading.Event()
        threading.Timer(0.3, gate.set).start()
        checkpoint["held"] = Held(gate)

    def on_exception(self, *_: Any) -> None:
        self.was_whole = self.file.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_told_to_stop_heeds_no_other_signal_until_its_checkpoint_is_whole(tmp_path: Path):
    stopped = Stopped(tmp_path / "checkpoints/stopped.ckpt")
    run = trainer(tmp_path, 3, AVSyncTrainer, callbacks=[stopped, GracefulStop()], plugins=[BackgroundCheckpointIO()])
    run.write_into(tmp_path)
    with pytest.raises(RunStopped):
        run.fit(tiny_module(), TinyData())
    assert stopped.was_whole


def stopped_on_two(rank: int, folder: Path, refused: bool) -> None:
    """Only the first of two processes writes, slowly or in vain; both end after that, alike."""
    stopped = Stopped(folder / "checkpoints/stopped.ckpt")
    settings: dict[str, Any] = {"devices": 2, "strategy": "ddp", "plugins": [BackgroundCheckpointIO()]}
    run = trainer(folder, 3, AVSyncTrainer, callbacks=[stopped, GracefulStop()], **settings)
    run.write_into(folder if rank == 0 else None)
    expected = pytest.raises(InputError, match=r"stopped\.ckpt' cannot be written: File too large")
    with small_files() if refused else nullcontext(), expected if refused else pytest.raises(RunStopped):
        run.fit(tiny_module(random_audio=True), TinyData())
    assert stopped.was_whole != refused


@pytest.mark.parametrize("refused", [False, True])
def test_no_rank_of_a_stopped_run_is_gone_while_another_writes(tmp_path: Path, refused: bool):
    run_ranks(2, stopped_on_two, tmp_path, refused)


class Last(Callback):
    """Saves once more after everything, slowly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gate = threading.Event()
        threading.Timer(0.3, gate.set).start()
        trainer.strategy.save_checkpoint({"held": Held(gate)}, self.path)


@pytest.mark.filterwarnings("ignore")
def test_the_end_of_a_run_waits_and_files_are_those_of_the_foreground(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    for name, io in (("front", AtomicCheckpointIO()), ("back", BackgroundCheckpointIO())):
        folder = tmp_path / name
        keep = ModelCheckpoint(folder, "{step}", save_last="link", every_n_train_steps=1)
        callbacks = [keep, Last(folder / "end.ckpt")]
        run = trainer(folder, 2, AVSyncTrainer, callbacks=callbacks, enable_checkpointing=True, plugins=[io])
        run.fit(tiny_module(), TinyData())
        assert sorted(path.name for path in folder.glob("*.ckpt")) == ["end.ckpt", "last.ckpt", "step=2.ckpt"]
    first, second = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("front", "back"))
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])
    said = [record.getMessage() for record in caplog.records if "wrote" in record.getMessage()]
    assert any("front/step=2.ckpt: " in line and "in 0." in line for line in said)
    assert any("back/step=2.ckpt: " in line and "of which training waited 0." in line for line in said)
