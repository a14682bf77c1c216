import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.readme_pictures import main, read_clip, shown_clips, typical
from callbacks.report.clip_videos import file_stem
from components.errors import InputError
from components.media.writer import write_mp4

SCORES = {"ball/a": 10.0, "ball/b": 90.0, "ball/c": 50.0, "face/d": 100.0, "face/hidden": 0.0}
FRAMES, FPS = 24, 24.0


def video(level):
    """A square that is bright in the second half."""
    frames = torch.full((FRAMES, 3, 32, 32), 40, dtype=torch.uint8)
    frames[FRAMES // 2 :] = level
    return frames


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "quickstart/version_0"
    sound = torch.zeros(16_000)
    sound[8_000:9_000] = 0.5
    for index, name in enumerate(SCORES):
        if name != "face/hidden":  # scored, but not on the page
            for kind, level in (("real", 200), ("generated", 100 + 10 * index)):
                file = folder / f"report/media/{file_stem(name)}.{kind}.mp4"
                write_mp4(file, video(level), FPS, sound, 16_000)
    rows = [
        {"clip": clip, "recording": clip, "kind": "generated", "metric": metric, "value": value, "judge": None}
        for clip, score in SCORES.items()
        for metric, value in (("cyclesync", score), ("psnr", 100 - score))
    ]
    (folder / "clips.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_clips_of_the_report_are_ranked_by_the_headline(run):
    assert list(shown_clips(run)) == ["face/d", "ball/b", "ball/c", "ball/a"]


def test_the_median_of_every_scene_is_shown():
    assert typical(["face/d", "ball/b", "ball/c", "ball/a"]) == ["ball/c", "face/d"]
    assert typical(["a", "b", "c", "d", "e"]) == ["a", "c", "e"]
    assert typical(["a"]) == ["a"]


def test_pictures_show_the_frames_and_the_sound(run, tmp_path, capsys):
    main([str(run), "--folder", str(tmp_path)])
    assert "show ball/c, face/d" in capsys.readouterr().out
    clips = [read_clip(run, name) for name in ("ball/c", "face/d")]
    assert [clip.title for clip in clips] == ["ball", "face"]
    loud = [index for index, peak in enumerate(clips[0].wave.peaks) if peak > 0.2]
    assert (loud[0], loud[-1]) == pytest.approx((80, 89), abs=3), "0.5 to 0.5625 s of 160 pieces in a second"
    with Image.open(tmp_path / "quickstart.gif") as gif:
        assert gif.n_frames == FRAMES and gif.info["loop"] == 0 and gif.info["duration"] == 40
        levels = []
        for index in (0, FRAMES - 1):
            gif.seek(index)
            levels.append([np.array(gif.convert("L"))[row : row + 8, 140:150].mean() for row in (60, 200)])
    # real above generated
    assert np.array(levels) == pytest.approx(np.array([[40, 40], [200, 120]]), abs=8)
    with Image.open(tmp_path / "quickstart.png") as sheet:
        row = np.array(sheet.convert("L"))[50, 120 + 32 :: 66][:12]
    assert row == pytest.approx(np.array([40] * 6 + [200] * 6), abs=8)


def test_a_clip_that_the_report_lacks_and_a_run_without_one_are_named(run, tmp_path):
    with pytest.raises(InputError, match="face/hidden"):
        main([str(run), "--folder", str(tmp_path), "--clips", "face/hidden"])
    for file in (run / "report/media").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no clip"):
        main([str(run), "--folder", str(tmp_path)])
