import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from components.errors import InputError
from lightning_modules.checkpoints.check import check_checkpoint, checkpoint_error_sentence
from lightning_modules.checkpoints.chosen import chosen_checkpoint, newest_checkpoint
from tests.lightning_modules.checkpoints.lost_blocks import lose_block


def test_words_for_checkpoints_pass():
    for word in ("best", "last", "hpc"):
        check_checkpoint(word)


def test_whole_files_pass_and_truncated_files_do_not(tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, file)
    check_checkpoint(str(file))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"a\.ckpt' is truncated"):
        check_checkpoint(str(file))
    with pytest.raises(InputError, match=r"b\.ckpt' does not exist"):
        check_checkpoint(str(tmp_path / "b.ckpt"))


@pytest.mark.parametrize("content", [torch.zeros(2), [1], {"step": 1}, {"state_dict": {}}])
def test_files_of_something_else_are_no_checkpoints(tmp_path: Path, content: object):
    file = tmp_path / "a.ckpt"
    torch.save(content, file)
    with pytest.raises(InputError, match=r"a\.ckpt' holds no training checkpoint \(it lacks '"):
        check_checkpoint(str(file))


def test_a_damaged_index_of_tensors_is_found(tmp_path: Path):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(300)}, "pytorch-lightning_version": "2.6.0"}, file)
    content = bytearray(file.read_bytes())
    start = content.index(b"data.pkl") + 60
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ckpt' is damaged"):
        check_checkpoint(str(file))


@pytest.mark.parametrize("block", range(3))
def test_a_lost_block_is_found(tmp_path: Path, block: int):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.ones(8192)}, "pytorch-lightning_version": "2.6.0"}, file)
    check_checkpoint(str(file))
    content = bytearray(file.read_bytes())
    start = content.index(torch.ones(64).numpy().tobytes()) + 4096 * block
    content[start : start + 4096] = bytes(4096)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ckpt' is damaged \(the checksum of .*/data/0 is wrong\)"):
        check_checkpoint(str(file))


@pytest.mark.parametrize(
    ("variables", "reads"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "RANK": "8", "WORLD_SIZE": "16"}, True),
        ({"LOCAL_RANK": "1", "RANK": "9", "WORLD_SIZE": "16"}, False),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "9", "SLURM_LOCALID": "1"}, False),
        ({"SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "interactive"}, True),
    ],
)
def test_one_process_of_a_machine_reads_the_content(
    tmp_path: Path, variables: dict[str, str], reads: bool, monkeypatch: pytest.MonkeyPatch
):
    for name in (
        "LOCAL_RANK",
        "WORLD_SIZE",
        "SLURM_NTASKS",
        "SLURM_LOCALID",
        "SLURM_JOB_NAME",
        "AVSYNC_LAST_CHECKPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = write(tmp_path / "version_0/checkpoints/last.ckpt", 0, state_dict={"a": torch.ones(8192)})
    lose_block(file, file.read_bytes().index(torch.ones(64).numpy().tobytes()) + 4096)
    alone = not {"WORLD_SIZE", "SLURM_NTASKS"} & variables.keys() or "SLURM_JOB_NAME" in variables
    if alone and reads:
        with pytest.raises(InputError, match="the checksum of"):
            chosen_checkpoint(str(file), tmp_path, to_train=False)
        return
    for given in ("last", str(file)):
        path, damage = chosen_checkpoint(given, tmp_path, to_train=False)
        assert path == str(file) and (damage is not None) == reads
    if reads:
        with pytest.raises(InputError, match="the checksum of"):  # as an export, which no other process hears of
            chosen_checkpoint(str(file), tmp_path, to_train=False, connects=False)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo code of a checkpoint ran",)


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": Malicious(), "pytorch-lightning_version": "2.6.0"}, file)
    check_checkpoint(str(file))  # who trusts the file may say so
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(file, weights_only=True)
    sentence = checkpoint_error_sentence(error.value, "a.ckpt")
    assert sentence is not None and "system), which is not run" in sentence and "\n" not in sentence
    assert "code of a checkpoint ran" not in capfd.readouterr().out


def test_words_and_folders_without_a_checkpoint():
    lightning = ValueError('`.validate(ckpt_path="best")` is set but `ModelCheckpoint` is not configured.')
    assert checkpoint_error_sentence(lightning, "best") == f"ckpt_path: {lightning}"
    absent = FileNotFoundError("checkpoint 'folder' does not exist")
    assert checkpoint_error_sentence(absent, "folder") == "ckpt_path: 'folder' holds no checkpoint; give a .ckpt file"


def test_every_difference_to_a_checkpoint_is_listed():
    with pytest.raises(RuntimeError) as error:
        nn.Linear(2, 3).load_state_dict({"weight": torch.zeros(3, 4), "bais": torch.zeros(3)})
    assert checkpoint_error_sentence(error.value, "x.ckpt") == (
        "ckpt_path: 'x.ckpt' does not fit the configured model (1 missing: bias; 1 unexpected: bais; "
        "1 of another shape: weight (file [3, 4], model [3, 2])); use the configuration the checkpoint was trained with"
    )


def test_at_most_ten_keys_are_listed():
    with pytest.raises(RuntimeError) as error:
        nn.ModuleList([nn.Linear(1, 1) for _ in range(8)]).load_state_dict({})
    sentence = checkpoint_error_sentence(error.value, "x.ckpt")
    assert "16 missing: 0.weight, " in sentence and sentence.count("weight") == 5 and "and 6 more" in sentence


def test_errors_about_other_things_are_left_alone():
    assert checkpoint_error_sentence(RuntimeError("out of memory"), "x.ckpt") is None
    assert checkpoint_error_sentence(KeyError("weight"), "x.ckpt") is None
    assert "lacks 'state_dict'" in checkpoint_error_sentence(KeyError("state_dict"), "x.ckpt")


def write(path: Path, age_s: float, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", **content}, path)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def test_last_is_the_newest_whole_checkpoint_of_any_run(tmp_path: Path):
    first = write(tmp_path / "version_0/checkpoints/last.ckpt", 50, optimizer_states=[])
    stopped = write(tmp_path / "version_1/checkpoints/stopped.ckpt", 40, optimizer_states=[])
    slim = write(tmp_path / "version_1/checkpoints/slim.ckpt", 30)
    cut = write(tmp_path / "version_2/checkpoints/last.ckpt", 20, optimizer_states=[])
    cut.write_bytes(cut.read_bytes()[:-30])
    os.utime(cut, (1e9, 1e9))
    write(tmp_path / "version_2/checkpoints/.last.ckpt.part", 10, optimizer_states=[])
    (tmp_path / "version_3/checkpoints").mkdir(parents=True)
    assert newest_checkpoint(tmp_path, to_train=True) == stopped
    assert newest_checkpoint(tmp_path, to_train=False) == slim
    # one of the same run and step that has all goes first: the slim one is rounded
    write(tmp_path / "version_1/checkpoints/slim.ckpt", 30, global_step=9)
    assert newest_checkpoint(tmp_path, to_train=False) == slim
    write(tmp_path / "version_1/checkpoints/stopped.ckpt", 40, optimizer_states=[], global_step=9)
    assert newest_checkpoint(tmp_path, to_train=False) == stopped
    stopped.unlink()
    assert newest_checkpoint(tmp_path, to_train=True) == first
    first.unlink()
    with pytest.raises(
        InputError, match=r"ckpt_path is last, but no run in .*truncated.*; .*slim\.ckpt' holds weights al"
    ):
        newest_checkpoint(tmp_path, to_train=True)
