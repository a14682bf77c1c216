"""The shipped evaluations: each is understood, and Syncphony's protocol runs on a folder in AVSync15's layout."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from components.media.writer import write_mp4
from components.v2a.bursts import render_bursts
from datamodules.avsync15 import AVSync15
from lightning_modules.command_line.cli import main
from tests.callbacks.jumping_squares import CORNERS

ROOT = Path(__file__).parents[3]
EVALUATIONS = sorted(path.name for path in (ROOT / "configs/eval").glob("*.yaml") if path.name != "papers.yaml")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


def clip(frames, jumps, size=32):
    video = torch.full((frames, 3, size, size), 30, dtype=torch.uint8)
    for frame in range(frames):
        y, x = CORNERS[sum(frame >= jump for jump in jumps) % len(CORNERS)]
        video[frame, :, y : y + 9, x : x + 9] = 220
    audio = render_bursts([[jump / 24 for jump in jumps]], round(frames / 24 * 16_000), 16_000)[0]
    return video, audio


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_is_understood(name, capsys):
    video, audio = clip(12, (5,))
    for folder in ("generated", "real"):
        write_lossless(Path(folder, "a.mov"), video, 24.0, audio)
    given = ["--generated", "generated", "--reference", "real", "--print_config"]
    assert main(["score", "--config", f"configs/eval/{name}", *given]) == 0, capsys.readouterr().err
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "lightning_modules.judged_files.GeneratedFiles"
    assert config["model"]["init_args"]["folder"] == "generated"
    assert config["data"]["init_args"]["root"] == "real"
    read = {"num_frames": 12, "fps": 24.0, "height": 32, "width": 32, "sample_rate": 16_000}
    assert config["clip"].items() >= read.items()
    # what is laid over an experiment keeps its name; all others stand apart from the trainings' runs
    assert any(config["callbacks"].values())
    assert name == "keep_clips.yaml" or config["experiment"].startswith("score")


def test_syncphonys_protocol(capsys):
    """Three clips of each recording, five tolerances in one pass, real sound, intervals over recordings."""
    root = Path("sets")
    jumps = {"dog/a": (8, 20, 33, 47, 60), "bell/b": (10, 25, 38, 52, 66)}
    for name, hits in jumps.items():
        write_mp4(root / f"videos/{name}.mp4", *(clip(72, hits)[0], 24.0, clip(72, hits)[1]), crf=4.0)
    (root / "test.txt").write_text("".join(f"{name}.mp4\n" for name in jumps))
    (root / "class_mapping.json").write_text(json.dumps({"dog": "a dog", "bell": "a bell"}))
    data = AVSync15(str(root), clip=ClipShape(24, 24.0, 32, 32, 16_000), clips_per_video=3, num_workers=0)
    data.setup("test")
    for batch in data.test_dataloader():
        for row, name in enumerate(batch.ids):
            write_lossless(Path("made", f"{name}.mov"), batch.video[row], 24.0)  # mute: the real sound drove them
    options = ["--generated", "made", "--reference", str(root), "--trainer.enable_progress_bar=false"]
    judge = ["--callbacks.cyclesync.init_args.v2a", "components.v2a.motion_v2a.MotionV2A"]
    assert main(["score", "--config", "configs/eval/avsync15.yaml", *options, *judge]) == 0, capsys.readouterr().err
    record = json.loads(Path("runs/score_avsync15/version_0/results.json").read_text())
    found = record["metrics"]["cyclesync"]
    assert (found["n"], found["n_clips"], found["tolerance_s"]) == (2, 6, 0.005)
    assert set(found["tolerances"]) == {"0.005", "0.04167", "0.05", "0.1", "0.2"}
    assert found == record["metrics"]["cyclesync_real"]
    assert found["tolerances"]["0.05"]["value"] > 90
    (Path("made/dog/a_clip-01.mov")).unlink()
    assert main(["score", "--config", "configs/eval/avsync15.yaml", *options, *judge]) == 2
    assert "made has no file for 1 of 6 clips: dog/a_clip-01;" in capsys.readouterr().err
