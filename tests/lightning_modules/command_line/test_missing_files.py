"""Weights that a configuration names are found missing before anything is built or rendered."""

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from components.backbones import pyramid_flow
from components.errors import InputError
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.preflight import check_files
from lightning_modules.command_line.startup import import_own_modules

SNAPSHOT_DOWNLOAD = huggingface_hub.snapshot_download
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An own working directory, an empty hub cache, and a connection that must not be used."""
    import_own_modules()  # classes are known once they are imported
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))


def part(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


SYNCNET = "components.metrics.syncnet.model.SyncNet.from_pretrained"
ONSETS = "components.v2a.onset_v2a.OnsetV2A.from_pretrained"
HARMONY = "lightning_modules.harmony.HarmonyModule"
MMAUDIO = "components.codecs.audio.mmaudio.MMAudioCodec"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"callbacks": {"judge": part("any.Callback", net=part(SYNCNET, source="weights/syncnet_v2.model"))}},
            r"callbacks\.judge\.net\.source: pretrained folder 'weights/syncnet_v2\.model' was not found",
        ),
        (
            {"model": part("M", codec=part(MMAUDIO, vae="configs", vocoder="weights/v.pt", vocoder_sha256=None))},
            r"model\.codec\.vocoder: pretrained folder 'weights/v\.pt'",
        ),
        (
            {"model": part("M", codec=part(MMAUDIO, vae="configs", vae_subfolder="none", vae_sha256=None))},
            r"model\.codec\.vae: '.*configs' has no subfolder 'none'",
        ),
        (
            {"trainer": {"callbacks": [part("any.Callback", v2a=part(ONSETS, folder="v"))]}},
            r"trainer\.callbacks\.0\.v2a\.folder: pretrained folder 'v'",
        ),
        (
            {"model": part(HARMONY, curriculum={"init_from": "runs/stage1/last.ckpt"})},
            r"model\.curriculum\.init_from: 'runs/stage1/last\.ckpt' does not exist",
        ),
    ],
)
def test_the_key_is_named(config: dict[str, Any], sentence: str):
    with pytest.raises(InputError, match=sentence):
        check_files(config)
    with torch.device("meta"):
        check_files(config)


def test_what_is_there_or_may_be_fetched_passes(monkeypatch: pytest.MonkeyPatch):
    backbone = part("components.backbones.pyramid_flow.pretrained_backbone", folder="hf://owner/name", subfolder="dit")
    config = {
        "model": part("M", backbone=backbone, init=part(MMAUDIO, vae="configs", vocoder=None)),
        "callbacks": {"export": part("callbacks.export_pretrained.ExportPretrained", folder="exported/new")},
    }
    check_files(config)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", SNAPSHOT_DOWNLOAD)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"model\.backbone\.folder: pretrained folder 'hf://owner/name/dit' was not"):
        check_files(config)


def test_a_missing_judge_is_told_before_the_model_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The shipped experiment, whose model alone would be downloaded for an hour."""
    monkeypatch.setattr(pyramid_flow.checkpoint, "pretrained_config", lambda *_: pytest.fail("began to build"))
    began = time.monotonic()
    assert main(["fit", "--config", str(ROOT / "configs/syncphony/avsync15.yaml"), "--data.root", "."]) == 2
    assert time.monotonic() - began < 60
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and said[0].startswith(
        "error: callbacks.cyclesync.v2a.folder: pretrained folder 'weights/avsync15_v2a' was not found (looked for '"
    )
