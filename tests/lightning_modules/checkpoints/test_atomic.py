"""Checkpoints appear whole or not at all, as files and as folders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import InputError
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.sharded import META_FILE, is_sharded_checkpoint, read_shards, write_shards
from lightning_modules.strategies.fsdp2 import FSDP2Strategy


class Unwritable:
    """Fails half way through being written."""

    def __reduce__(self) -> Any:
        raise OSError("the disk is full")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    io, file = AtomicCheckpointIO(), tmp_path / "runs" / "last.ckpt"
    io.save_checkpoint({"step": 1, "weights": torch.ones(3)}, file)
    with pytest.raises(OSError, match="disk is full"):
        io.save_checkpoint({"weights": torch.zeros(300_000), "more": Unwritable()}, file)
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]
    back = io.load_checkpoint(file)
    assert back["step"] == 1 and torch.equal(back["weights"], torch.ones(3))
    io.save_checkpoint({"step": 2}, file)
    assert io.load_checkpoint(file) == {"step": 2}
    io.remove_checkpoint(file)
    assert not list(file.parent.iterdir())
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        io.load_checkpoint(file)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    torch.save({"state_dict": {}, "evil": Path}, tmp_path / "evil.ckpt")
    with pytest.raises(Exception, match="weights_only"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")


def test_a_folder_of_shards_is_read_as_the_file_would_be(tmp_path: Path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "global_step": 1,
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "loops": {"a": [1, 2]},
    }
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    assert not is_sharded_checkpoint(folder)
    write_shards(checkpoint, folder, is_global_zero=True)
    assert is_sharded_checkpoint(folder)
    io = AtomicCheckpointIO()
    back = io.load_checkpoint(folder)
    assert back.keys() == checkpoint.keys() and back["loops"] == checkpoint["loops"]
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in back["state_dict"].items())
    (found,), (wanted,) = back["optimizer_states"], checkpoint["optimizer_states"]
    assert found["param_groups"] == wanted["param_groups"]
    for index, values in wanted["state"].items():
        assert all(torch.equal(value, found["state"][index][name]) for name, value in values.items())

    part = read_shards(
        folder, lambda name, size, dtype: torch.empty(size) if name == "state_dict.bias" else None, distributed=False
    )
    assert torch.equal(part["state_dict"]["bias"], layer.bias)
    assert part["state_dict"]["weight"].is_meta and part["state_dict"]["weight"].shape == (2, 3)

    io.save_checkpoint({"step": 3}, folder)  # a file takes the folder's place
    assert io.load_checkpoint(folder) == {"step": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_damaged_folder_is_named(tmp_path: Path):
    folder = tmp_path / "cut.ckpt"
    folder.mkdir()
    (folder / META_FILE).write_bytes(b"")
    with pytest.raises(InputError, match=r"cut\.ckpt' is damaged"):
        AtomicCheckpointIO().load_checkpoint(folder)


def test_an_unknown_precision_is_named():
    with pytest.raises(InputError, match="compute_dtype is 'float8': give one of bfloat16, float32"):
        FSDP2Strategy("float8")
