"""A step that ends a training is run again by ``avsync replay``, also one of two processes."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from callbacks.replay_file import Replay
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.replayed_step import _configuration
from tests.lightning_modules.strategies.parallel_runs import run_command
from tests.processes import run_ranks

SQUARES = {
    "model": {"class_path": "tests.callbacks.sick_squares.SickSquares", "init_args": {"sick": "hammering/a_1"}},
    "data": {"class_path": "tests.callbacks.jumping_squares.SquareClips", "init_args": {"batch_size": 1}},
}
SYNCPHONY = {
    "model": {"class_path": "tests.callbacks.sick_squares.SickSyncphony", "init_args": {"sick_index": 3}},
    "data": {"class_path": "tests.lightning_modules.tiny_module.TinyData"},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


def write_config(experiment: dict[str, Any], **trainer: Any) -> None:
    quiet = {"enable_model_summary": False, "enable_progress_bar": False}
    settings = {"max_steps": 4, "limit_val_batches": 0, "accelerator": "cpu", "gradient_clip_val": 1.0}
    checkpoint = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 1, "save_top_k": -1}}
    config = {"seed_everything": 7, **experiment, "callbacks": {"checkpoint": checkpoint}}
    Path("sick.yaml").write_text(yaml.safe_dump(config | {"trainer": {**quiet, **settings, **trainer}}))


def finite_checkpoints() -> list[str]:
    """Their names, after looking at every weight and all of the optimizer's state in them."""
    files = sorted(Path("runs").rglob("*.ckpt"))
    for file in files:
        content = torch.load(file, weights_only=True)
        states = content["optimizer_states"][0]["state"].values()
        tensors = [*content["state_dict"].values(), *(value for values in states for value in values.values())]
        assert all(value.isfinite().all() for value in tensors)
    return [file.name for file in files]


def test_a_replay_finds_the_same_again(capsys: pytest.CaptureFixture[str]):
    write_config(SQUARES)
    assert main(["fit", "--config", "sick.yaml"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert finite_checkpoints() == ["epoch=0-step=1.ckpt"]
    file = "runs/sick/version_0/replay/step1_rank0.pt"
    assert f"; run it again with avsync replay {file}; " in error
    before = sorted(Path.cwd().rglob("*"))
    assert main(["replay", file]) == 3
    lines = capsys.readouterr().out.splitlines()
    told = error.removeprefix("error: ").partition("; run it")[0]
    loss = float(told.split()[3])
    assert lines[:2] == [f"in training: {told}", "clip hammering/a_1"]
    assert float(lines[2].removeprefix("loss: ")) == pytest.approx(loss, rel=1e-3)
    assert lines[3:5] == ["gradients that are not finite: 1 of 2", "    layer.weight"]
    assert lines[5].startswith("anomaly detection: Function 'PowBackward0' returned nan values in its 0th output.")
    assert "sick_squares.py, line " in lines[5] and lines[5].endswith(".square().sum().sqrt()")
    assert sorted(Path.cwd().rglob("*")) == before  # nothing is written

    assert main(["replay", file, "--model.init_args.sick", "nobody"]) == 0
    assert "everything is finite this time" in capsys.readouterr().out


def test_a_batch_that_is_a_part_of_a_step_is_replayed(capsys: pytest.CaptureFixture[str]):
    """Two clips of four columns: the stages go by the batch's place in the training order."""
    write_config(SYNCPHONY | {"data": {"class_path": "tests.callbacks.sick_squares.Pairs"}}, accumulate_grad_batches=2)
    assert main(["fit", "--config", "sick.yaml"]) == 2
    assert main(["replay", "runs/sick/version_0/replay/step1_rank0.pt"]) == 3
    out = capsys.readouterr().out
    assert "clip clip3_0 (stage 1, noise " in out and "clip clip3_1 (stage 2, noise " in out


def test_what_cannot_be_replayed_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("ran"),))

    write_config(SQUARES)
    assert main(["fit", "--config", "sick.yaml"]) == 2
    file = Path("runs/sick/version_0/replay/step1_rank0.pt")
    replay = Replay.read(file)
    replace(replay, config_yaml=None).write(Path("bare.pt"))
    other = yaml.safe_load(str(replay.config_yaml)) | {"model": {"class_path": "tests.callbacks.gone.Model"}}
    replace(replay, config_yaml=yaml.safe_dump(other)).write(Path("other.pt"))
    torch.save({**torch.load(file, weights_only=False), "told": Code()}, "code.pt")
    capsys.readouterr()
    for args, sentence in [
        (["code.pt"], "replay file 'code.pt' holds code, which is not run"),
        (["bare.pt"], "'bare.pt' holds no configuration"),
        (["other.pt"], "tests.callbacks.gone"),
        (["gone.pt"], "replay file 'gone.pt' does not exist"),
        ([], "FILE; use avsync replay FILE"),
    ]:
        assert main(["replay", *args]) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert sentence in error
    assert not Path("ran").exists()


def test_one_rank_of_two_ends_both_and_is_replayed(capsys: pytest.CaptureFixture[str]):
    write_config(SQUARES, strategy="ddp", devices=2, use_distributed_sampler=True)
    command = ["fit", "--config", "sick.yaml", "--model.init_args.sick", "frog/b_0"]
    ranks = run_ranks(run_command, (command,), 2, folder=Path.cwd())
    ended = time.time()
    (file,) = Path("runs/sick/version_0/replay").iterdir()
    replay = Replay.read(file)
    assert file.name == f"step{replay.step}_rank{replay.rank}.pt" and replay.world_size == 2
    assert [one.status for one in ranks] == [2, 2] and ended - file.stat().st_mtime < 30
    errors = [line for one in ranks for line in one.said.splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and errors[0] == errors[1]  # of both processes
    assert f"on rank {replay.rank} with clip frog/b_0; run it again with avsync replay {file}" in errors[0]
    finite_checkpoints()
    assert main(["replay", str(file)]) == 3
    out = capsys.readouterr().out
    assert "clip frog/b_0\n" in out and "not finite: 1 of 2\n    layer.weight\n" in out and "PowBackward0" in out


def test_one_rank_of_two_that_share_the_weights(capsys: pytest.CaptureFixture[str]):
    files = {"class_path": "FSDP2Strategy", "init_args": {"save_distributed_checkpoint": False}}
    write_config(SYNCPHONY, strategy=files, devices=2)
    ended = run_ranks(run_command, (["fit", "--config", "sick.yaml"],), 2, folder=Path.cwd())
    file = Path("runs/sick/version_0/replay/step1_rank1.pt")
    assert [one.status for one in ended] == [2, 2] and [path.name for path in file.parent.iterdir()] == [file.name]
    errors = [line for one in ended for line in one.said.splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and "but 84 of 84 gradients are not finite (" in errors[0] and " and 81 more)" in errors[0]
    assert "on rank 1 with clips clip3_0 (stage 0, noise " in errors[0]
    assert finite_checkpoints() == ["epoch=0-step=1.ckpt"]
    # whole weights, for one process that shares them with none
    assert main(["replay", str(file), "--trainer.strategy", "auto"]) == 3
    out = capsys.readouterr().out
    assert "clip clip3_3 (stage 2" in out and "not finite: 84 of 84\n" in out and "PowBackward0" in out


def test_one_process_replays_what_several_shared_tokens_and_weights_of():
    shared = {"compute_dtype": "float32", "context_parallel_size": 2, "replicas": 2}
    strategy = {"class_path": "FSDP2Strategy", "init_args": shared}
    config = yaml.safe_dump({"model": {}, "trainer": {"strategy": strategy}})
    replay: Any = SimpleNamespace(config_yaml=config, world_size=3)
    trainer = yaml.safe_load(_configuration(replay, "runs"))["trainer"]
    assert trainer["strategy"] == {"class_path": "FSDP2Strategy", "init_args": {"compute_dtype": "float32"}}
    assert trainer["accumulate_grad_batches"] == 3
