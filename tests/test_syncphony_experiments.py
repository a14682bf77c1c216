"""The paper's experiments, unchanged but for paths, on tiny releases in the exact public layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from components.backbones.pyramid_flow.checkpoint import pretrained_backbone
from components.media.writer import write_mp4
from components.v2a.onset_v2a import OnsetV2A
from lightning_modules.command_line.cli import main
from tests.public_folders.avsync15 import write_avsync15
from tests.public_folders.denseav import TINY_HUBERT, tiny_denseav, write_hub_folder
from tests.public_folders.greatest_hits import write_greatest_hits
from tests.public_folders.pyramid_flow import write_miniflux_release, write_sd3_release

pytestmark = [pytest.mark.gate, pytest.mark.long]

WIDE_HUBERT = {**TINY_HUBERT, "hidden_size": 1024}
"""The width the experiments name; one thin layer of it."""

SMALL = [
    *("--clip.num_frames=17", "--clip.height=64", "--clip.width=128", "--data.num_workers=0"),
    "--model.sampler.init_args.video_steps=[2,1,1]",
]
"""Seconds instead of minutes; `test_full_size` leaves the clips as long and large as they are."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases")
    write_miniflux_release(folder / "miniflux")
    write_sd3_release(folder / "sd3")
    write_hub_folder(folder / "denseav", tiny_denseav(WIDE_HUBERT), hubert=WIDE_HUBERT)
    torch.manual_seed(0)
    OnsetV2A(height=16, width=32).save_pretrained(folder / "v2a")
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["avsync"])


def paths(releases: Path, release: str = "miniflux") -> list[str]:
    """Overrides that say where things are, and nothing else."""
    return [
        f"--model.dit.init_args.backbone.init_args.folder={releases / release}",
        f"--model.codec.init_args.folder={releases / release}",
        f"--model.text_encoder.init_args.source.init_args.folder={releases / release}",
        "--model.text_encoder.init_args.folder=text",
        f"--model.audio_encoder.init_args.checkpoint={releases / 'denseav'}",
        f"--callbacks.cyclesync.init_args.v2a.init_args.folder={releases / 'v2a'}",
        "--data.root=clips",
    ]


def run(command: str, experiment: str, *options: str) -> None:
    assert main([command, "--config", f"configs/syncphony/{experiment}.yaml", *options]) == 0


def metrics(folder: str) -> dict[str, float]:
    record = json.loads(Path(folder, "results.json").read_text())["metrics"]
    return {name: entry["value"] for name, entry in record.items()}


def train_and_use(releases: Path, experiment: str, options: list[str]) -> None:
    """``fit`` with validation, resume, ``validate``, ``export`` and ``predict``."""
    cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", *options]
    few = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.max_val_clips=2"]
    cpu.append("--trainer.accumulate_grad_batches=1")
    run("fit", experiment, *cpu, *few, "--callbacks.checkpoint.init_args.every_n_train_steps=2")
    first = Path("runs", experiment, "version_0")
    checkpoint = first / "checkpoints" / "last.ckpt"
    assert metrics(str(first)).keys() >= {"cyclesync", "cyclesync_w0", "cyclesync_real"}
    assert (first / "report" / "index.html").is_file()

    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert set(stored["frozen"]) == {"backbone", "codec", "text_encoder", "audio_encoder"}
    assert all(len(part["sha256"]) == 64 for part in stored["frozen"].values())
    assert not any(key.startswith(("codec.", "text_encoder.", "audio_encoder.")) for key in stored["state_dict"])

    on = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--callbacks.throughput=null"]
    run("fit", experiment, *cpu, *on, "--ckpt_path", str(checkpoint))
    run("validate", experiment, *cpu, *few[2:], "--ckpt_path", str(checkpoint))
    assert metrics(f"runs/{experiment}/version_2") == metrics(str(first))

    run("export", experiment, *cpu, "--ckpt_path", str(checkpoint), "--folder", "exported")
    back = pretrained_backbone("exported").state_dict()
    late = {k.removeprefix("ema.dit.backbone."): v for k, v in stored["state_dict"].items() if "ema.dit.backbone." in k}
    assert late and all(torch.equal(back[key], value) for key, value in late.items())
    release = "sd3" if "sd3" in experiment else "miniflux"
    start = pretrained_backbone(str(releases / release), "diffusion_transformer_384p").state_dict()
    assert back.keys() == start.keys()
    for key in start.keys() - late.keys():  # embedders and early blocks are kept in bfloat16, the head is not
        assert torch.equal(back[key], start[key].bfloat16().float()) or torch.equal(back[key], start[key])

    # the exported folder is the model: no checkpoint, the same videos
    exported = ["backbone.init_args.folder=exported", "backbone.init_args.subfolder=.", "audio_weights=exported"]
    run("validate", experiment, *cpu, *few[2:], *(f"--model.dit.init_args.{setting}" for setting in exported))
    assert metrics(f"runs/{experiment}/version_3") == metrics(str(first))


def test_avsync15(releases: Path):
    onsets = write_avsync15(Path("clips"), num_train=4, num_test=3, height=48, width=80, seconds=2.2)
    assert onsets
    options = [*paths(releases), *SMALL]
    train_and_use(releases, "avsync15", options)
    video = torch.randint(0, 256, (1, 3, 72, 120), dtype=torch.uint8)
    sound = torch.randn(16_000) * 0.1
    write_mp4(Path("still.mp4"), video.repeat(8, 1, 1, 1), 24.0, sound, 16_000)
    Path("mine.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {
                    "class_path": "datamodules.image_audio_pairs.ImageAudioPairs",
                    "init_args": {"images": ["still.mp4"], "sounds": ["still.mp4"], "captions": ["hammering"]},
                }
            }
        )
    )
    checkpoint = "runs/avsync15/version_0/checkpoints/last.ckpt"
    writer = "--callbacks.writer.class_path=callbacks.prediction_writer.PredictionWriter"
    sizes = [option for option in SMALL if "num_workers" not in option]
    options = [option for option in paths(releases) if "--data" not in option]
    cpu = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    run("predict", "avsync15", "--config", "mine.yaml", *options, *sizes, *cpu, writer, "--ckpt_path", checkpoint)
    written = list(Path("runs/mine").glob("*/predictions/*.mp4"))
    assert len(written) == 1 and written[0].stat().st_size > 1000


@pytest.mark.slow  # the other release on the other data set, by the same path
def test_sd3_on_the_greatest_hits(releases: Path):
    write_greatest_hits(Path("clips"))
    train_and_use(releases, "sd3_greatest_hits", [*paths(releases, "sd3"), *SMALL])


@pytest.mark.slow  # minutes: 121 frames of 384 x 640
def test_full_size(releases: Path):
    write_avsync15(Path("clips"), num_train=4, num_test=1, height=96, width=160, seconds=5.2)
    train_and_use(releases, "avsync15", [*paths(releases), "--model.sampler.init_args.video_steps=[1,1,1]"])
