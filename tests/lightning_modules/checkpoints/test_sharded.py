"""A folder of shards is opened without running anything that is in it, whoever made it."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from components.errors import InputError
from lightning_modules.checkpoints import sharded
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.check import check_checkpoint
from lightning_modules.checkpoints.chosen import newest_checkpoint
from lightning_modules.checkpoints.sharded import META_FILE, read_shards, read_table, read_whole, write_shards
from lightning_modules.command_line.cli import main
from tests.lightning_modules.checkpoints.lost_blocks import lose_block

ROOT = Path(__file__).resolve().parents[3]
INDEX = ".metadata"


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shards.ckpt"
    folder.mkdir()
    checkpoint = {"state_dict": {"weight": torch.arange(6.0).view(2, 3)}, "pytorch-lightning_version": "2.6.0"}
    write_shards(checkpoint, folder, is_global_zero=True)
    return folder


def as_written_before_there_were_digests(folder: Path) -> None:
    rest = torch.load(folder / META_FILE, weights_only=True)
    del rest["sha256_of_files"]
    torch.save(rest, folder / META_FILE)


def index_of(folder: Path) -> Metadata:
    return FileSystemReader(folder).read_metadata()


def whole_index(folder: Path, trace: Path) -> None:
    (folder / INDEX).write_bytes(pickle.dumps(Malicious(trace)))


def inside_the_index(folder: Path, trace: Path) -> None:
    index = index_of(folder)
    index.planner_data = Malicious(trace)
    (folder / INDEX).write_bytes(pickle.dumps(index))


def rest_of_the_checkpoint(folder: Path, trace: Path) -> None:
    torch.save({"loops": Malicious(trace)}, folder / META_FILE)


@pytest.mark.parametrize("plant", [whole_index, inside_the_index, rest_of_the_checkpoint])
def test_code_is_named_and_never_run(
    folder: Path, tmp_path: Path, plant: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
):
    trace = tmp_path / "was_run"
    plant(folder, trace)
    sentence = r"shards\.ckpt' holds code \(posix\.mkdir\), which is not run; give one that avsync fit has written"
    for use in (lambda: check_checkpoint(str(folder)), lambda: AtomicCheckpointIO().load_checkpoint(folder)):
        with pytest.raises(InputError, match=sentence):
            use()
    config = str(ROOT / "configs/quickstart.yaml")
    assert main(["validate", "--config", config, "--ckpt_path", str(folder)]) == 2
    assert f"ckpt_path: checkpoint '{folder}' holds code (posix.mkdir)" in capsys.readouterr().err
    assert not trace.exists()


def test_the_example_of_malice_would_run(tmp_path: Path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "was_run")))
    assert (tmp_path / "was_run").exists()


def test_values_that_are_pickles_in_a_shard_are_left_alone(folder: Path, tmp_path: Path):
    """PyTorch's loader unpickles such values without asking; ours wants tensors alone."""
    index = index_of(folder)
    tensor, place = next(iter(index.storage_data.items()))
    index.state_dict_metadata["state_dict.hook"] = BytesStorageMetadata()
    index.storage_data[MetadataIndex("state_dict.hook")] = place
    (folder / place.relative_path).write_bytes(
        (folder / place.relative_path).read_bytes() + pickle.dumps(Malicious(tmp_path / "was_run"))
    )
    (folder / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(InputError, match=r"shards\.ckpt' is damaged \(its part \S+ is not as it was written\)"):
        read_whole(folder)
    as_written_before_there_were_digests(folder)
    assert read_whole(folder)["state_dict"].keys() == {"weight"} and tensor.fqn == "state_dict.weight"
    assert not (tmp_path / "was_run").exists()


def test_parts_outside_the_folder_and_missing_ones_are_refused(folder: Path):
    index = index_of(folder)
    part = next(iter(index.storage_data.values())).relative_path
    moved = folder.parent / part
    shutil.move(folder / part, moved)
    with pytest.raises(InputError, match=rf"is damaged \(its part {part} is not there\)"):
        check_checkpoint(str(folder))
    for place in index.storage_data.values():
        place.relative_path = f"../{part}"
    (folder / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(InputError, match=rf"is damaged \(its part \.\./{part} is not there\)"):
        read_table(folder)


@pytest.mark.parametrize("name", [INDEX, META_FILE])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]])
def test_damage_is_told_before_anything_is_built(folder: Path, name: str, damage: Callable[[bytes], bytes]):
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"ckpt_path: checkpoint '.*shards\.ckpt' is damaged"):
        check_checkpoint(str(folder))


def test_folders_of_something_else_are_no_checkpoints(folder: Path, tmp_path: Path):
    check_checkpoint(str(folder))
    with pytest.raises(InputError, match=r"is a folder without a checkpoint \(it lacks meta\.pt\)"):
        check_checkpoint(str(tmp_path))
    torch.save({"loops": {}}, folder / META_FILE)
    with pytest.raises(InputError, match=r"shards\.ckpt' holds no training checkpoint"):
        check_checkpoint(str(folder))


def test_folders_of_earlier_versions_load(folder: Path):
    as_written_before_there_were_digests(folder)
    check_checkpoint(str(folder), content="everywhere")
    assert torch.equal(read_whole(folder)["state_dict"]["weight"], torch.arange(6.0).view(2, 3))


def test_digests_are_no_part_of_what_is_loaded(folder: Path):
    assert read_whole(folder).keys() == {"state_dict", "pytorch-lightning_version"}


def test_the_newest_whole_folder_is_the_last_one(folder: Path, tmp_path: Path):
    checkpoints = tmp_path / "experiment" / "version_0" / "checkpoints"
    older, newer = checkpoints / "older.ckpt", checkpoints / "newer.ckpt"
    for place, age_s in ((older, 20), (newer, 10)):
        shutil.copytree(folder, place)
        os.utime(place, (1e9 - age_s, 1e9 - age_s))
    assert newest_checkpoint(tmp_path / "experiment", to_train=False) == newer
    (part,) = newer.glob("*.distcp")
    part.write_bytes(bytes(part.stat().st_size))
    os.utime(newer, (1e9, 1e9))
    assert newest_checkpoint(tmp_path / "experiment", to_train=False) == older


def save_share(rank: int, folder: Path, store: Path) -> None:
    """Rank ``rank`` of two: they write a part each, then one part is damaged, and both read."""
    torch.set_num_threads(1)  # threads of the process this one is a copy of are not there
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    weight = distribute_tensor(torch.arange(4096.0).view(2, 2048), mesh, [Shard(0)])
    write_shards({"state_dict": {"weight": weight}}, folder, is_global_zero=rank == 0)
    dist.barrier()
    whole = read_shards(folder, lambda _, size, dtype: torch.empty(size, dtype=dtype))
    assert torch.equal(whole["state_dict"]["weight"], torch.arange(4096.0).view(2, 2048))
    dist.barrier()
    sums = torch.load(folder / META_FILE, weights_only=True)["sha256_of_files"]
    assert sums.keys() == {INDEX, "__0_0.distcp", "__1_0.distcp"}
    if rank == 0:
        lose_block(folder / "__1_0.distcp", 4096)
    dist.barrier()
    with pytest.raises(InputError, match=r"its part __1_0\.distcp is not as it was written"):
        read_shards(folder, lambda _, size, dtype: torch.empty(size, dtype=dtype))
    dist.barrier()
    # what one meets when it reads its part back both raise, and neither waits for the other
    met = patch.object(sharded, "sha256_of", side_effect=OSError(errno.EIO, os.strerror(errno.EIO)))
    with met if rank == 1 else nullcontext(), pytest.raises(OSError, match="Input/output error"):
        write_shards({"state_dict": {"weight": weight}}, folder, is_global_zero=rank == 0)
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_note_and_compare_shares_and_both_refuse(tmp_path: Path):
    (tmp_path / "two.ckpt").mkdir()
    torch.multiprocessing.start_processes(
        save_share, (tmp_path / "two.ckpt", tmp_path / "store"), nprocs=2, start_method="fork"
    )
