"""Configurations that were printed, saved or written elsewhere say the same in any folder and to any command."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.command_line.cli import main
from lightning_modules.command_line.config_files import with_bases

SQUARES = "tests.callbacks.jumping_squares"
FIT = {
    "model": {"class_path": f"{SQUARES}.JumpingSquares"},
    "data": {"class_path": f"{SQUARES}.SquareClips"},
    "trainer": {"max_steps": 1, "num_sanity_val_steps": 0, "accelerator": "cpu", "enable_model_summary": False},
    "callbacks": {
        "judge": {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}},
        "checkpoint": {"class_path": "ModelCheckpoint", "init_args": {"save_last": True}},
    },
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["avsync"])
    return tmp_path / "here"


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    status = main([*args, "--print_config"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return shown.out


@pytest.mark.parametrize(
    "config", ["configs/harmony/quickstart.yaml", "configs/syncphony/sd3_avsync15.yaml", "configs/quickstart.yaml"]
)
def test_what_is_printed_says_the_same_elsewhere(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    whole = printed(capsys, "fit", "--config", config)
    (tmp_path / "mine.yaml").write_text(whole)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert printed(capsys, "fit", "--config", "../mine.yaml") == whole
    assert yaml.safe_load(whole)["base"] is None


def test_a_base_is_relative_to_its_file_or_to_the_installation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.yaml").write_text("base: [configs/quickstart.yaml, b.yaml]\ntrainer: {max_steps: 3}\n")
    (tmp_path / "mine" / "b.yaml").write_text("seed_everything: 5\n")
    content = yaml.safe_load(printed(capsys, "fit", "--config", str(tmp_path / "mine" / "a.yaml")))
    assert (content["trainer"]["max_steps"], content["seed_everything"]) == (3, 5)
    assert content["model"]["class_path"] == "lightning_modules.syncphony.SyncphonyModule"
    # the file's own neighbour first
    (tmp_path / "mine" / "configs").mkdir()
    (tmp_path / "mine" / "configs" / "quickstart.yaml").write_text("seed_everything: 6\n")
    args = with_bases(["fit", "--config", str(tmp_path / "mine" / "a.yaml")])
    assert args[2] == str(tmp_path / "mine" / "configs" / "quickstart.yaml")


def test_saved_configurations_run_any_command_in_any_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (here / "base.yaml").write_text(yaml.safe_dump(FIT))
    (here / "squares.yaml").write_text("base: base.yaml\nseed_everything: 3\n")
    assert main(["fit", "--config", "squares.yaml"]) == 0
    run = here / "runs/squares/version_0"
    checkpoint = run / "checkpoints/last.ckpt"
    assert main(["validate", "--config", "squares.yaml", "--ckpt_path", str(checkpoint)]) == 0
    judged = json.loads((here / "runs/squares/version_1/results.json").read_text())["metrics"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    stored = elsewhere / "stored.yaml"
    stored.write_text(torch.load(checkpoint, weights_only=True)["config_yaml"])
    # of a fit for validate, of the checkpoint's text, and of a validation for fit
    for number, config in enumerate((run / "config.yaml", stored)):
        assert main(["validate", "--config", str(config), "--ckpt_path", str(checkpoint)]) == 0, capsys.readouterr().err
        again = json.loads((elsewhere / f"runs/squares/version_{number}/results.json").read_text())
        assert again["metrics"] == judged
    of_validation = here / "runs/squares/version_1/config.yaml"
    assert yaml.safe_load(of_validation.read_text())["ckpt_path"] == str(checkpoint)
    one_more = ["--ckpt_path=null", "--experiment=anew"]
    assert main(["fit", "--config", str(of_validation), *one_more]) == 0, capsys.readouterr().err
    assert (elsewhere / "runs/anew/version_0/checkpoints/last.ckpt").is_file()
    assert main(["predict", "--config", str(of_validation)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (["--data.images", "[a.png,", "b.png]"], "--data.images '[a.png, b.png]'"),
        (["--data.images=[a.png,", "b.png]"], "--data.images '[a.png, b.png]'"),
        (["--data.images", "a.png", "b.png"], "--data.images '[a.png, b.png]'"),  # [ab].png, as a shell reads it
        (["--data.images", "p"], "--data.images '[p]'"),  # [photo.png], where there is a file p
        (["--data.captions", "[a", "ball]"], "--data.captions '[a ball]'"),
        (["--model.variants", "[w0,", "off_sync]"], "--model.variants '[w0, off_sync]'"),
    ],
)
def test_a_list_without_quotes_gets_a_hint(given: list[str], whole: str, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", "--config", "configs/quickstart.yaml", "--config", "configs/predict.yaml", *given]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert said.endswith(f"; write the whole list in quotes, or the shell takes it apart: {whole}")


def test_a_word_too_many_gets_a_hint(capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", "configs/quickstart.yaml", "--experiment", "my", "run"]) == 2
    assert "unexpected argument run; put a value that has spaces or brackets in quotes" in capsys.readouterr().err
