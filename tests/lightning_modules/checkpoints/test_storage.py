"""A disk that refuses a checkpoint is named, with what was needed, and the checkpoint before it stays."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.errors import InputError
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.storage import storage_error
from lightning_modules.strategies.fsdp2 import FSDP2Strategy


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may have more than 100,000 bytes: what a full disk or a quota looks like.

    Not a fixture: pytest reports a test while its fixtures stand, perhaps into a file that is longer.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_checkpoint_before_and_leaves_no_part(tmp_path: Path):
    io, file = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"step": 1}, file)
    whole = {"step": 2, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(300_000)}}}]}
    refused = pytest.raises(InputError, match=r"last\.ckpt' cannot be written: File too large")
    with small_files(), refused as raised:
        io.save_checkpoint(whole, file)
    assert "about 1.1 MiB needed" in str(raised.value) and "free on that file system" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert io.load_checkpoint(file) == {"step": 1}


def test_a_full_disk_leaves_no_part_of_a_sharded_checkpoint(tmp_path: Path):
    strategy, file = FSDP2Strategy(save_distributed_checkpoint=True), tmp_path / "last.ckpt"
    strategy.save_checkpoint({"step": 1, "state_dict": {"a": torch.ones(3)}}, file)
    with small_files(), pytest.raises(InputError, match=r"last\.ckpt' cannot be written: File too large"):
        strategy.save_checkpoint({"step": 2, "state_dict": {"a": torch.ones(300_000)}}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(file)["step"] == 1


@pytest.mark.parametrize("there", ["folder", "link to nothing", "nothing"])
def test_a_folder_takes_its_name_whatever_a_killed_process_has_left_there(there: str, tmp_path: Path):
    strategy, file = FSDP2Strategy(save_distributed_checkpoint=True), tmp_path / "last.ckpt"
    strategy.save_checkpoint({"step": 1, "state_dict": {"a": torch.ones(3)}}, file)
    file.rename(tmp_path / ".last.ckpt.old")  # killed before the new one had its name
    if there == "folder":
        strategy.save_checkpoint({"step": 2, "state_dict": {"a": torch.ones(3)}}, tmp_path / "other.ckpt")
        (tmp_path / "other.ckpt").rename(file)
    elif there == "link to nothing":
        file.symlink_to("gone.ckpt")
    strategy.save_checkpoint({"step": 3, "state_dict": {"a": torch.ones(3)}}, file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(file)["step"] == 3


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where not even root can write")
def test_a_folder_that_takes_no_files_is_named():
    with pytest.raises(InputError, match=r"checkpoint '/sys/kernel/last\.ckpt' cannot be written"):
        AtomicCheckpointIO().save_checkpoint({"step": 1}, "/sys/kernel/last.ckpt")


def test_what_the_disk_said_is_found_behind_other_exceptions():
    full = OSError(28, os.strerror(28))
    hidden = RuntimeError("unexpected pos 768 vs 662")
    hidden.__context__ = full
    assert storage_error(hidden) is full
    assert storage_error(OSError(2, os.strerror(2))) is None
    hidden.__suppress_context__ = True
    assert storage_error(hidden) is None
