import ast
import json
import sys
import wave
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from components.media.writer import write_mp4
from components.v2a.runners.program import Clip, main, read_clip, read_jobs, write_sound
from components.v2a.subprocess_v2a import RUNNERS

JOB = {
    "id": "a", "video": "a.mp4", "audio": "a.wav", "fps": 24, "num_frames": 5, "duration_s": 5 / 24, "caption": "",
    "seed": 3,
}  # fmt: skip


def numbered(count, size=(2, 2)):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, *size)


@pytest.mark.parametrize(("fps", "wanted"), [(24.0, 25.0), (30.0, 25.0), (12.0, 8.0), (23.976, 25.0)])
def test_each_frame_is_the_nearest_in_time(fps, wanted):
    frames = Clip(numbered(48), fps).at(wanted, 30).frames[:, 0, 0, 0]
    times = torch.arange(48, dtype=torch.float64) / fps
    for index, frame in enumerate(frames.tolist()):
        distance = (times - index / wanted).abs()
        assert distance[frame] <= distance.min() + 1e-9


def test_ties_all_fall_to_the_same_side_and_the_last_frame_stands_still():
    clip = Clip(numbered(3), 12.0, "a dog", 5).at(24.0, 9)
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert (clip.fps, clip.caption, clip.seed, clip.duration_s) == (24.0, "a dog", 5, 9 / 24)


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (33, 33)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_sizes_are_those_of_torchvision(size, mode):
    frames = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    way = v2.InterpolationMode(mode)
    wanted = v2.Compose([v2.Resize(26, way, antialias=True), v2.CenterCrop(22)])(frames)
    found = Clip(frames, 25.0).centre(26, 22, mode).frames
    assert found.shape == (2, 3, 22, 22)
    assert (found.int() - wanted.int()).abs().max() <= 1  # torchvision's own kernel for bytes rounds in between
    squeezed = v2.Resize((20, 20), way, antialias=True)(frames)
    assert (Clip(frames, 25.0).resized(20, 20, mode).frames.int() - squeezed.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a JSON list of clips"),
        ("[]", "has to be a list of at least one clip"),
        (json.dumps([JOB, {key: JOB[key] for key in JOB if key != "seed"}]), "entry 1 has no 'seed'"),
        (json.dumps([{**JOB, "fps": 0}]), "fps of 'a' is 0; it has to be positive"),
    ],
)
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(SystemExit, match=message):
        read_jobs(tmp_path / "jobs.json")


def test_video_has_the_frames_that_the_list_says(tmp_path):
    write_mp4(tmp_path / "a.mp4", (numbered(5, (16, 32)) * 40).contiguous(), 24.0, crf=0)
    job = {**JOB, "video": str(tmp_path / "a.mp4")}
    clip = read_clip(job)
    assert clip.frames.shape == (5, 3, 16, 32)
    assert (clip.frames.float().mean(dim=(1, 2, 3)) - 40 * torch.arange(5)).abs().max() < 4
    assert (clip.fps, clip.seed) == (24, 3)
    with pytest.raises(SystemExit, match=r"a\.mp4: has 5 frames where the list says 6"):
        read_clip({**job, "num_frames": 6})


def test_sounds_are_cut_and_whole(tmp_path):
    write_sound(tmp_path / "a.wav", torch.tensor([0.5, -2.0, 0.25, 0.1]), 10, 0.3)
    with wave.open(str(tmp_path / "a.wav")) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 10)
        samples = torch.frombuffer(bytearray(sound.readframes(9)), dtype=torch.int16)
    assert samples.tolist() == [16384, -32767, 8192]
    with pytest.raises(SystemExit, match="b: the model made a sound that holds NaN"):
        write_sound(tmp_path / "b.wav", torch.tensor([0.5, float("nan")]), 10, 0.2)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("file", sorted(RUNNERS.glob("*.py")), ids=lambda file: file.name)
def test_programs_are_python_3_8_and_know_nothing_of_this_package(file: Path):
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if node not in for_types
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        )
    }  # fmt: skip
    assert not names & {"components", "datamodules", "callbacks", "lightning_modules", "avsync"}
    if file.name != "__init__.py":  # "int | None" in an annotation
        assert "__future__" in names


def test_models_it_does_not_know(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program.py", "foley"])
    with pytest.raises(SystemExit, match="the first argument is 'foley'; it has to be vaura or mmaudio"):
        main()
