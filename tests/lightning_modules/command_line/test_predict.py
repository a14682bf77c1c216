"""``avsync predict`` with files of the user's own: what would be ignored, random or rounded is refused or said."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from components.media.reader import probe, read_video
from components.media.writer import write_mp4, write_wav
from lightning_modules.command_line.cli import main

SYNCPHONY = ["--config", "configs/quickstart.yaml", "--config", "configs/predict.yaml"]
HARMONY = ["--config", "configs/harmony/quickstart.yaml", "--config", "configs/harmony/predict.yaml"]
SHIPPED = "configs/weights/quickstart_syncphony.ckpt"
SOUND = ["--data.sounds=[sound.wav]"]
MOVES = "--model.init_args.generation.task"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    Image.new("RGBA", (60, 40), (200, 40, 30, 90)).save("photo.png")
    sound = torch.zeros(16_000 * 3)
    for start in (8_000, 20_000, 30_000):
        sound[start : start + 800] = torch.rand(800, generator=torch.Generator().manual_seed(start)) - 0.5
    write_wav(Path("sound.wav"), sound, 16_000)
    write_mp4(Path("clip.mp4"), torch.zeros(60, 3, 32, 32, dtype=torch.uint8), 24.0)


def predict(*options: str, files: list[str] = SYNCPHONY, ckpt_path: str | None = SHIPPED) -> int:
    given = ["--data.images=[photo.png]", "--data.captions=[a bouncing ball]"]
    checkpoint = [] if ckpt_path is None else ["--ckpt_path", ckpt_path]
    return main(["predict", *files, *given, *options, *checkpoint, "--trainer.enable_progress_bar=false"])


def made(number: int = 0) -> torch.Tensor:
    (path,) = Path(f"runs/predict/version_{number}/predictions").glob("*.mp4")
    assert probe(path).num_frames == 49 and probe(path).sample_rate == 16_000
    return read_video(path, 0.0, 49, 24.0, 32, 32).float()


def test_the_seed_decides_the_clips(capsys: pytest.CaptureFixture[str]) -> None:
    """By the experiment's own clip, 49 frames; seed 0, which is the experiment's, draws as ever."""
    for options in ([], ["--model.init_args.noise_seed=0", "--seed_everything=5"], ["--seed_everything=5"]):
        assert predict(*SOUND, *options) == 0, capsys.readouterr().err
    first, own, other = (made(number) for number in range(3))
    assert torch.equal(first, own)
    assert (first - other).abs().mean() > 1
    # the picture is transparent and lies over white: 197 on average, where its colours alone have 90
    assert first[0].mean() > 150
    saved = yaml.safe_load(Path("runs/predict/version_2/config.yaml").read_text())
    assert saved["seed_everything"] == 5 and saved["model"]["init_args"]["noise_seed"] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.sounds=null"], "Syncphony moves to a sound, but data.sounds is not given: give a sound for every"),
        (["--data.sounds=[]"], "there are 1 images and 0 sounds; give one per image"),
        ([*SOUND, "--data.captions=[one, two]"], "there are 1 images and 2 captions; give one per image"),
        ([*SOUND, "--data.images=[photo.png, photo.png]"], "there are 2 images and 1 sounds; give one per image"),
        ([*SOUND, "--data.scenes=[a hall]"], "data.scenes is given, but Syncphony reads images, captions and sounds"),
        ([*SOUND, "--data.images=[clip.mp4]", "--data.whole_videos=true"], "data.whole_videos is given, but Syncphony"),
        (
            [*SOUND, "--clip.num_frames=20"],
            "clip.num_frames is 20, but the model's video codec makes 1 + a multiple of 8 frames: set it to 17 or 25",
        ),
        ([*SOUND, "--clip=null"], "there is no section clip that says what the videos to make look like"),
        (["--data.sounds=[gone.wav]"], "gone.wav does not exist; data.sounds has to name files that are there"),
    ],
)
def test_syncphony_is_told_in_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(*options) == 2
    assert sentence in refusal(capsys)
    assert not list(Path.cwd().rglob("predictions/*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            [f"{MOVES}=audio_to_video"],
            "generation.task is 'audio_to_video', but data.sounds is not given: give a sound for every image, or set",
        ),
        (SOUND, "data.sounds is given, but generation.task is 'joint', which makes the sound itself: leave it out, or"),
    ],
)
def test_harmony_is_told_in_one_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(*options, files=HARMONY, ckpt_path="pretrained") == 2
    assert sentence in refusal(capsys)


def test_weights_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(*SOUND, ckpt_path=None) == 2
    assert refusal(capsys) == (
        "error: ckpt_path is not given, so that what is trained would be random: give a .ckpt file or last, or "
        "pretrained to predict with the weights that the configuration itself names"
    )
    assert not Path("runs").exists()
    assert predict(*SOUND, ckpt_path="pretrained") == 0
    assert made().shape == (49, 3, 32, 32)
    # the saved configuration says it again
    saved = yaml.safe_load(Path("runs/predict/version_0/config.yaml").read_text())
    assert saved["ckpt_path"] == "pretrained"


def test_training_does_not_go_on_from_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "configs/quickstart.yaml", "--ckpt_path", "pretrained"]) == 2
    assert "checkpoint 'pretrained' does not exist" in refusal(capsys)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]
