"""One, two whole and two sharded processes train the same model, and read each other's checkpoints."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.datamodules.conftest import write_recording
from tests.lightning_modules.checkpoints.lost_blocks import lose_block
from tests.lightning_modules.strategies.parallel_runs import (
    assert_same_tensors,
    avsync,
    checkpoint,
    launched,
    load,
    results,
    run_command,
    seen,
    write_config,
)
from tests.processes import run_ranks

pytestmark = [pytest.mark.gate, pytest.mark.long]

SHARDED = {"class_path": "FSDP2Strategy", "init_args": {"compute_dtype": "float32"}}
FSDP2 = {
    "class_path": "FSDP2Strategy",
    "init_args": {"compute_dtype": "float32", "save_distributed_checkpoint": False},
}
TWO = {"devices": 2, "strategy": FSDP2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """Three steps of one process, each accumulated over the two batches that two ranks take."""
    avsync("fit", write_config(folder, "alone", accumulate_grad_batches=2))
    return seen(folder, "alone")[0]


@pytest.fixture(scope="module")
def sharded(folder: Path) -> list[dict[str, Any]]:
    """The same three steps of two processes that have half of the model each."""
    avsync("fit", write_config(folder, "sharded", **TWO))
    return seen(folder, "sharded")


def assert_same_run(folder: Path, name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    losses = [loss for step in zip(*(rank["losses"] for rank in ranks), strict=True) for loss in step]
    assert losses == pytest.approx(alone["losses"], abs=1e-6)
    ids = [clips for step in zip(*(rank["ids"] for rank in ranks), strict=True) for clips in step]
    assert ids == alone["ids"]
    for rank in ranks:
        assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-6)
        assert rank["weights"] == ranks[0]["weights"]
    videos: dict[str, float] = {}
    for rank in ranks:
        videos |= rank["generated"]
    assert len(videos) == sum(len(rank["generated"]) for rank in ranks) == 5  # three clips here, two there
    assert videos == pytest.approx(alone["generated"], rel=1e-6)
    mine, theirs = results(folder, name), results(folder, "alone")
    for metric in ("cyclesync", "cyclesync_real"):
        assert mine[metric] == theirs[metric]


def test_two_whole_processes_do_what_one_does(folder: Path, alone: dict[str, Any]):
    avsync("fit", write_config(folder, "whole", devices=2, strategy="ddp"))
    assert_same_run(folder, "whole", seen(folder, "whole"), alone)
    assert_same_tensors(load(checkpoint(folder, "whole")), load(checkpoint(folder, "alone")), 2e-6)


def test_two_sharded_processes_do_what_one_does(folder: Path, alone: dict[str, Any], sharded: list[dict[str, Any]]):
    assert_same_run(folder, "sharded", sharded, alone)
    assert [rank["held"] for rank in sharded] == pytest.approx([alone["held"] / 2] * 2, rel=0.01)
    mine, theirs = load(checkpoint(folder, "sharded")), load(checkpoint(folder, "alone"))
    assert_same_tensors(mine, theirs, 2e-5)
    assert mine["frozen"] == theirs["frozen"] and set(mine["frozen"]) == {
        "backbone",
        "codec",
        "text_encoder",
        "audio_encoder",
    }
    assert mine["ProceduralClips"] == theirs["ProceduralClips"] == {"consumed_samples": 24}
    averages = {name for name in mine["state_dict"] if name.startswith("ema.")}
    assert {name.removeprefix("ema.") for name in averages} == mine["state_dict"].keys() - averages
    assert not list(checkpoint(folder, "sharded").parent.glob(".*"))


def damaged(folder: Path, name: str, whole: Path) -> tuple[Path, Path]:
    """The experiment ``name`` with a whole checkpoint, and a newer one that has lost a block of its content."""
    found = []
    for age_s, version in ((20, "version_0"), (10, "version_1")):
        path = folder / "runs" / name / version / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        shutil.copyfile(whole, path)
        if version == "version_1":
            lose_block(path, path.stat().st_size // 2)
        os.utime(path, (1e9 - age_s, 1e9 - age_s))
        found.append(path)
    return found[0], found[1]


def test_a_checkpoint_that_has_lost_a_block_ends_all_processes(folder: Path, sharded: list[dict[str, Any]]):
    """They run already when the first of them finds it."""
    _, lost = damaged(folder, "lost", checkpoint(folder, "sharded").resolve())
    config = write_config(folder, "lost", **TWO, max_steps=4, limit_val_batches=0)
    for given in ("last", str(lost)):
        arguments = ["fit", "--config", str(config), "--ckpt_path", given]
        for ended in run_ranks(run_command, (arguments,), 2, timeout_s=120):
            assert ended.status == 2 and f"error: ckpt_path: '{lost}' is damaged (the checksum of" in ended.said


@pytest.mark.slow
def test_processes_that_the_first_one_starts_go_on_from_what_it_has_chosen(folder: Path, sharded: list[dict[str, Any]]):
    damaged(folder, "started", checkpoint(folder, "sharded").resolve())
    config = write_config(folder, "started", devices=2, strategy="ddp", max_steps=4, limit_val_batches=0)
    launched("fit", config, "--ckpt_path", "last")
    first, second = seen(folder, "started")
    assert len(first["losses"]) == len(second["losses"]) == 1 and first["weights"] == second["weights"]


def test_sharded_processes_validate_clips_of_different_lengths_as_one_does(folder: Path):
    """For the longer ones sampling makes more forward passes, which sharded processes make together."""
    recordings = folder / "lengths"
    recordings.mkdir()
    for k, seconds in enumerate((0.4, 1.2, 0.8, 1.2, 0.8)):
        write_recording(recordings / f"{k}.mp4", seconds, k)
    rows = "".join(f"{k}.mp4,a tone,val\n" for k in range(5))
    (recordings / "metadata.csv").write_text(f"file_name,text,split\n{rows}")
    settings = {"root": str(recordings), "batch_size": 1, "val_batch_size": 2, "num_workers": 0}

    def validated(name: str, **trainer: Any) -> list[dict[str, Any]]:
        config = write_config(folder, name, **trainer)
        content = yaml.safe_load(config.read_text())
        content["clip"]["min_frames"] = 9
        content["data"] = {"class_path": "FolderClips", "init_args": {**settings, "bucket_cache": None}}
        config.write_text(yaml.safe_dump(content))
        avsync("validate", config)
        return seen(folder, name)

    (alone,), ranks = validated("lengths_alone"), validated("lengths_sharded", **TWO)
    assert len(alone["generated"]) == 5
    assert {name: value for rank in ranks for name, value in rank["generated"].items()} == pytest.approx(
        alone["generated"], rel=1e-6
    )
    assert sum(len(rank["generated"]) for rank in ranks) == 5
    assert results(folder, "lengths_sharded")["cyclesync"] == results(folder, "lengths_alone")["cyclesync"]


# Lightning starts its second process in tests/lightning_modules/command_line/test_broken_runs.py, too
@pytest.mark.parametrize("start", [avsync, pytest.param(launched, marks=pytest.mark.slow)])
def test_a_sharded_run_told_to_stop_on_one_rank_goes_on_exactly(
    folder: Path, sharded: list[dict[str, Any]], start: Callable[..., None]
):
    name, resumed = f"stopped_{start.__name__}", f"resumed_{start.__name__}"
    start("fit", write_config(folder, name, stop_at=2, **TWO), status=75)
    path = checkpoint(folder, name, "stopped.ckpt")
    stored = load(path)
    assert stored["global_step"] == 2 and stored["ProceduralClips"] == {"consumed_samples": 16}
    avsync("fit", write_config(folder, resumed, **TWO), "--ckpt_path", str(path))
    for rank, whole_run in zip(seen(folder, resumed), sharded, strict=True):
        assert rank["losses"] == whole_run["losses"][2:] and rank["weights"] == whole_run["weights"]
        assert rank["generated"] == whole_run["generated"]
    assert_same_tensors(load(checkpoint(folder, resumed)), load(checkpoint(folder, "sharded")), 0)


def test_a_sharded_run_goes_on_with_the_schedule_of_its_configuration(folder: Path, sharded: list[dict[str, Any]]):
    schedule = "{class_path: OneCycleLR, init_args: {max_lr: 0.001, total_steps: 8}}"
    config = write_config(folder, "longer", **TWO, max_steps=5, limit_val_batches=0)
    path = checkpoint(folder, "sharded")
    avsync("fit", config, "--ckpt_path", str(path), "--model.init_args.lr_scheduler", schedule)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0e-3, 8)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    for rank in seen(folder, "longer"):
        assert rank["rates"] == rates[3:]


def test_shards_are_read_whole_and_whole_files_in_shards(folder: Path, alone: dict[str, Any]):
    """Two sharded processes write a folder, one process goes on; two sharded ones judge what that one has written."""
    avsync("fit", write_config(folder, "parts", stop_at=2, devices=2, strategy=SHARDED), status=75)
    parts = checkpoint(folder, "parts", "stopped.ckpt")
    assert parts.is_dir() and len(list(parts.glob("*.distcp"))) == 2
    config = write_config(folder, "gathered", accumulate_grad_batches=2, limit_val_batches=0)
    avsync("fit", config, "--ckpt_path", str(parts))
    (gathered,) = seen(folder, "gathered")
    assert gathered["losses"] == pytest.approx(alone["losses"][4:], abs=1e-5)
    assert_same_tensors(load(checkpoint(folder, "gathered")), load(checkpoint(folder, "alone")), 2e-5)
    config = write_config(folder, "slim", slim=True, devices=2, strategy=SHARDED, limit_val_batches=0)
    avsync("fit", config, "--ckpt_path", str(parts))
    slim, whole_run = load(checkpoint(folder, "slim", "slim.ckpt")), load(checkpoint(folder, "alone"))
    assert slim["state_dict"].keys() == whole_run["state_dict"].keys() and "optimizer_states" not in slim
    for name, value in slim["state_dict"].items():
        torch.testing.assert_close(value.float(), whole_run["state_dict"][name].float(), rtol=2**-8, atol=1e-5)
    assert not list(checkpoint(folder, "slim", "slim.ckpt").parent.glob(".*"))
    for name, settings in (("averages", TWO), ("weights", {"ema": False})):
        config = write_config(folder, name, **settings)
        avsync("validate", config, "--ckpt_path", str(checkpoint(folder, "gathered")))
    averages, weights = (
        {clip: total for rank in seen(folder, name) for clip, total in rank["generated"].items()}
        for name in ("averages", "weights")
    )
    assert averages == pytest.approx(alone["generated"], rel=1e-6)
    assert all(abs(averages[clip] - weights[clip]) > 1e-5 * weights[clip] for clip in weights)
