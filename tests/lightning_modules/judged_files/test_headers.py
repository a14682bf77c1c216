import pytest
import torch

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from lightning_modules.judged_files.headers import check_headers, headers, shape_of
from tests.components.media.made_files import turn

CLIP = ClipShape(12, 24.0, 32, 48, 16_000)


def write(folder, name, frames=12, fps=24.0, size=(32, 48), sound_s=0.5, rate=16_000):
    audio = torch.zeros(round(sound_s * rate)) if sound_s else None
    file = folder / f"{name}.mov"
    write_lossless(file, torch.zeros(frames, 3, *size, dtype=torch.uint8), fps, audio, rate)
    return file


def check(folder, clip=CLIP, own_sound=True, own_size=True):
    check_headers(str(folder), headers(sorted(folder.iterdir())), clip, own_sound, own_size)


def test_files_like_the_clips_pass_and_say_what_they_are(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b")
    check(tmp_path)
    assert shape_of(headers(sorted(tmp_path.iterdir()))) == CLIP


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"frames": 11}, r"1 files of another length than the clips' 12 frames: \S+b.mov \(11 frames\); set"),
        ({"frames": 13}, r"b.mov \(13 frames\)"),
        ({"fps": 25.0, "frames": 12}, r"another rate than the clips' 24 frames a second: \S+b.mov \(25\)"),
        ({"size": (48, 32)}, r"another size than the first one's 32x48: \S+b.mov \(48x32\); set --model.size"),
        ({"sound_s": 0.0}, r"1 files without sound: \S+b.mov; set --model.sound reference"),
        ({"rate": 22_050}, r"another rate of sound than the first one's 16000 Hz: \S+b.mov \(22050 Hz\)"),
        ({"sound_s": 0.3}, r"does not cover the picture: \S+b.mov \(lacks 0.20 s\)"),
    ],
)
def test_what_differs_is_named(tmp_path, other, sentence):
    write(tmp_path, "a")
    write(tmp_path, "b", **other)
    with pytest.raises(InputError, match=sentence):
        check(tmp_path)


def test_what_is_not_judged_may_differ(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", size=(64, 64), sound_s=0.0)
    check(tmp_path, own_sound=False, own_size=False)
    write(tmp_path, "c", frames=10, sound_s=0.42)
    with pytest.raises(InputError, match="another length"):
        check(tmp_path, own_sound=False, own_size=False)
    check(tmp_path, ClipShape(12, 24.0, 32, 48, 16_000, min_frames=9), own_sound=False, own_size=False)


def test_sizes_are_those_that_are_seen(tmp_path):
    write(tmp_path, "a", size=(48, 32))
    turn(write(tmp_path, "b"))  # 32 rows of 48 pixels, recorded on the side
    check(tmp_path)
    assert shape_of(headers([tmp_path / "b.mov"])) == ClipShape(12, 24.0, 48, 32, 16_000)
    write(tmp_path, "c")
    with pytest.raises(InputError, match=r"another size than the first one's 48x32: \S+c.mov \(32x48\)"):
        check(tmp_path)
