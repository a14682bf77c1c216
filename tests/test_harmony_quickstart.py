"""The Harmony quickstart as a whole: what it makes together belongs together."""

import json
import sys
from pathlib import Path

import pytest

from components.media.reader import read_clip
from lightning_modules.command_line.cli import main


@pytest.mark.slow  # five minutes of training
def test_what_is_generated_together_belongs_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    assert main(["fit", "--config", "configs/harmony/quickstart.yaml"]) == 0
    run = Path("runs/harmony_quickstart/version_0")
    found = json.loads((run / "results.json").read_text())["metrics"]
    assert {entry["n"] for entry in found.values()} == {64}
    for metric in ("cyclesync", "sync_c"):
        assert found[metric]["ci95"][0] > found[f"{metric}_chance"]["ci95"][1]
        assert found[f"{metric}_audio_to_video"]["ci95"][0] > found[f"{metric}_chance"]["ci95"][1]
    assert found["cyclesync"]["value"] > found["cyclesync_no_synccfg"]["value"]
    assert found["sync_d"]["ci95"][1] < found["sync_d_chance"]["ci95"][0]
    for kind in ("generated", "no_synccfg", "audio_to_video", "video_to_audio"):
        video, audio = read_clip(run / f"report/media/test_00000.{kind}.mp4", 0.0, 48, 24.0, 192, 192, 16000)
        assert video.float().std() > 10 and audio.abs().max() > 0.01
