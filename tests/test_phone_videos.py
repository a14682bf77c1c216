"""docs/phone_videos.md, walked by its own commands: videos of a phone, a look, a judge, a scored model, a video."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from components.media.reader import read_clip
from components.media.writer import write_mp4
from lightning_modules.__main__ import main
from tests.tiny_syncphony import generator

pytestmark = [pytest.mark.gate, pytest.mark.long]  # one test, which would be alone at the end

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/phone_videos.md").read_text()
SHORT = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.num_workers", "0"]
SHORT += [
    "--data.batch_size",
    "4",
    "--data.val_batch_size",
    "2",
    "--model.init_args.lr_scheduler.init_args.total_steps",
    "2",
]
QUARTER_TURN = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30))


def write_phone_video(path: Path, seed: int) -> None:
    """Three seconds in portrait, stored lying on its side: a bright block jumps with every click."""
    g = generator(seed)
    onsets = torch.sort(torch.randint(8, 84, (4,), generator=g)).values
    frames = torch.randint(20, 60, (1, 3, 64, 96), generator=g).repeat(90, 1, 1, 1)
    sound = 0.002 * torch.randn(3 * 44100, generator=g)
    for onset in onsets.tolist():
        frames[onset : onset + 6, :, 20:44, 30:60] = 220
        at = round(onset / 30 * 44100)
        sound[at : at + 2000] += 0.6 * torch.randn(2000, generator=g) * torch.linspace(1, 0, 2000)
    write_mp4(path, frames.to(torch.uint8), 30.0, sound, 44100)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = QUARTER_TURN
    path.write_bytes(data)
    path.with_suffix(".txt").write_text("a block jumps")


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_the_page_leads_from_a_folder_to_a_scored_model_and_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for index in range(6):
        write_phone_video(tmp_path / f"mine/VID_{index:03}.mp4", index)
    video, _ = read_clip(tmp_path / "mine/VID_000.mp4", 0.0, 24, 24.0, 96, 64, 16000)
    assert video.shape[-2:] == (96, 64)
    Image.new("RGB", (40, 30), (200, 30, 30)).save("photo.png")
    click = torch.randn(49 * 16000 // 24, generator=generator(9)).mul(3000).short()
    wavfile.write("sound.wav", 16000, click.numpy())

    def run(words: list[str], *more: str) -> None:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert main() == 0, shlex.join(words)

    doctor, judge, train, predict, *_full = commands()
    run(doctor, "--workers", "0")
    seen = json.loads((tmp_path / "runs/quickstart/doctor/doctor.json").read_text())
    assert seen["problems"] == []
    assert sum(split["used"] for split in seen["splits"].values()) == 6
    assert {row["caption"] for row in seen["recordings"]} == {"a block jumps"}
    run(judge, *SHORT)
    assert (tmp_path / "weights/my_judge/model.safetensors").is_file()
    run(train, *SHORT, "--callbacks.checkpoint.init_args.every_n_train_steps", "2")
    run_folder = tmp_path / "runs/mine/version_0"
    metrics = json.loads((run_folder / "results.json").read_text())["metrics"]
    assert {"cyclesync", "cyclesync_w0", "cyclesync_off_sync", "cyclesync_real"} <= set(metrics)
    assert "folder: weights/my_judge" in (run_folder / "config.yaml").read_text()
    assert "a block jumps" in (run_folder / "report/index.html").read_text()
    run(predict)
    (made,) = (tmp_path / "runs/mine").glob("*/predictions/*.mp4")
    frames, sound = read_clip(made, 0.0, 48, 24.0, 32, 32, 16000)
    assert frames.float().std() > 1 and sound.abs().max() > 0.01
