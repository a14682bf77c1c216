import json
import sys

import pytest
import torch

from callbacks.cyclesync import CycleSyncCallback
from components.contracts import clip_generator
from components.errors import InputError
from components.metrics.cyclesync.metric import cyclesync_onsets
from components.v2a.subprocess_v2a import JOBS_FILE, SubprocessV2A, visible_devices
from components.weights.named_files import check_named_files
from tests.pretended_card import CARD, pretended_card

# A real external program: knows nothing of this package, hears a click at the brightest frame of each mp4.
PROGRAM = """
import json, sys, wave
import av, numpy as np

mode, jobs = sys.argv[1], sys.argv[2]
jobs = json.load(open(jobs))
if mode == "fail":
    print("CUDA out of memory", file=sys.stderr)
    sys.exit(3)
if mode == "log":
    json.dump(jobs, open("seen.json", "w"))
for job in jobs:
    if mode == "forget" and job["id"].endswith("1"):
        continue
    with av.open(job["video"]) as container:
        assert not container.streams.audio
        light = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert len(light) == job["num_frames"]
    rate = 16000
    seconds = job["duration_s"] * (0.5 if mode == "short" else 1.3 if mode == "long" else 1.0)
    sound = np.zeros(round(seconds * rate), np.float32)
    start = int(np.argmax(light) / job["fps"] * rate)
    click = sound[start : start + 300]
    click += np.random.default_rng(job["seed"]).uniform(-0.8, 0.8, len(click))
    if mode == "nan":
        sound[5] = np.nan
        with av.open(job["audio"], "w") as out:
            stream = out.add_stream("pcm_f32le", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
            out.mux(stream.encode())
        continue
    with wave.open(job["audio"], "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(rate)
        out.writeframes((sound * 32767).astype("<i2").tobytes())
"""


@pytest.fixture
def adapter(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def make(mode="ok", **kwargs):
        return SubprocessV2A([sys.executable, str(program), mode, "{jobs}"], str(tmp_path / "work"), **kwargs)

    return make


@pytest.fixture
def video():
    clips = torch.full((2, 24, 3, 15, 18), 0.2)  # odd height: padded for H.264
    clips[0, 8], clips[1, 15] = 0.9, 0.9
    return clips


def test_sound_comes_from_the_program_and_is_on_time(adapter, video, tmp_path):
    sound, rate = adapter()(video, 24.0)
    assert (sound.shape, rate) == ((2, 22_050), 22_050)
    assert cyclesync_onsets(sound, rate) == [pytest.approx([8 / 24], abs=0.04), pytest.approx([15 / 24], abs=0.04)]
    assert not list((tmp_path / "work").iterdir())  # nothing is left behind


def test_program_is_told_what_it_needs(adapter, video, tmp_path):
    adapter("log", keep_files=True)(video, 12.0, ["a dog", "a drum"], [clip_generator(name, 0) for name in "ab"])
    jobs = json.loads((tmp_path / "work" / "seen.json").read_text())
    assert [job["caption"] for job in jobs] == ["a dog", "a drum"]
    assert all((job["fps"], job["num_frames"], job["duration_s"]) == (12.0, 24, 2.0) for job in jobs)
    assert jobs[0]["seed"] != jobs[1]["seed"]
    (folder,) = (tmp_path / "work").glob("v2a-*")
    assert {file.name for file in folder.iterdir()} == {
        JOBS_FILE, "clip_00000.mp4", "clip_00000.wav", "clip_00001.mp4", "clip_00001.wav"
    }  # fmt: skip


def test_longer_sounds_are_cut(adapter, video):
    assert adapter("long")(video, 24.0)[0].shape == (2, 22_050)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fail", r"ended with status 3: CUDA out of memory"),
        ("forget", r"left no 'clip_00001.wav'"),
        ("short", r"lasts 0.500 s but the clip lasts 1.000 s"),
        ("nan", r"wrote no usable sound: .*clip_00000\.wav cannot be used: 1 samples are NaN or infinite"),
    ],
)
def test_failures_are_named_and_leave_nothing(adapter, video, tmp_path, mode, message):
    with pytest.raises(InputError, match=message):
        adapter(mode)(video, 24.0)
    assert not list((tmp_path / "work").iterdir())


def test_too_slow(adapter, video):
    with pytest.raises(InputError, match=r"took longer than timeout_s = 0\.01"):
        adapter(timeout_s=0.01)(video, 24.0)


STAYING = """
import json, sys, wave

assert sys.argv[1:] == ["--stay"]
print("loaded", file=open("loads.txt", "a"))
for number, line in enumerate(sys.stdin):
    print("x" * 100_000, file=sys.stderr)  # more than a pipe holds
    if number == 2:
        print("CUDA out of memory", file=sys.stderr)
        sys.exit(3)
    for job in json.load(open(line.strip())):
        with wave.open(job["audio"], "wb") as out:
            out.setnchannels(1), out.setsampwidth(2), out.setframerate(16000)
            out.writeframes(bytes([100 + number]) * 2 * round(job["duration_s"] * 16000))
    print("done", flush=True)
"""


def test_program_that_stays_is_started_once_for_all_calls_until_it_leaves_the_device(video, tmp_path):
    (tmp_path / "stays.py").write_text(STAYING)
    judge = SubprocessV2A([sys.executable, str(tmp_path / "stays.py")], str(tmp_path / "work"), stays=True)
    judge.cpu()  # nothing has been started
    first, second = (judge(video, 24.0)[0] for _ in range(2))
    assert second.mean() > first.mean() > 0
    program = judge._program
    judge.cpu()
    assert program is not None and program.poll() == 0  # it has ended with its input
    assert torch.equal(judge(video, 24.0)[0], first)  # by another one
    judge(video, 24.0)
    with pytest.raises(InputError, match=r"ended with status 3: (x+ \| )?CUDA out of memory"):
        judge(video, 24.0)
    assert torch.equal(judge(video, 24.0)[0], first)
    assert (tmp_path / "work" / "loads.txt").read_text().split() == ["loaded"] * 3
    judge._program.kill()  # from outside, between two calls
    judge._program.wait()
    with pytest.raises(InputError, match="ended with status -9: it printed nothing"):
        judge(video, 24.0)
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["loads.txt"]


@pytest.mark.parametrize(
    ("device", "environment", "visible"),
    [
        ("cpu", {}, None),
        ("cuda:3", {}, "3"),
        ("cuda", {}, "0"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6,7"}, "6"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "MIG-1a2b,MIG-3c4d"}, "MIG-1a2b"),
    ],
)
def test_program_sees_the_gpu_of_the_clips(device, environment, visible):
    assert visible_devices(torch.device(device), environment) == visible


@pytest.mark.parametrize("stays", [False, True])
def test_program_is_told_the_gpu_of_the_clips(video, tmp_path, monkeypatch, stays):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    tells = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], file=open('gpus.txt', 'a'))\n"
    (tmp_path / "program.py").write_text(tells + (STAYING if stays else PROGRAM))
    command = [sys.executable, str(tmp_path / "program.py"), *([] if stays else ["ok"])]
    judge = SubprocessV2A(command, str(tmp_path / "work"), stays=stays)
    with pretended_card():
        sound, _ = judge(video.to(CARD), 24.0)
        assert sound.device == CARD
    judge(video, 24.0)  # of the CPU: what stays on another device is ended first
    judge.cpu()
    assert (tmp_path / "work" / "gpus.txt").read_text().split() == ["5", "5,6,7"]


def test_program_that_stays_and_is_too_slow(video, tmp_path):
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    judge = SubprocessV2A([sys.executable, str(tmp_path / "sleeps.py")], str(tmp_path), stays=True, timeout_s=0.2)
    with pytest.raises(InputError, match=r"took longer than timeout_s = 0\.2"):
        judge(video, 24.0)


def test_program_that_does_not_end_with_its_input_is_ended(video, tmp_path, monkeypatch):
    monkeypatch.setattr("components.v2a.subprocess_v2a._PATIENCE_S", 0.2)
    (tmp_path / "sleeps.py").write_text(STAYING + "import time; time.sleep(60)")
    judge = SubprocessV2A([sys.executable, str(tmp_path / "sleeps.py")], str(tmp_path), stays=True)
    judge(video, 24.0)
    program = judge._program
    judge.cpu()
    assert program is not None and program.returncode == -9


def test_commands_that_cannot_work(tmp_path):
    with pytest.raises(InputError, match="command is empty"):
        SubprocessV2A("", str(tmp_path))
    with pytest.raises(InputError, match="'no-such-program-anywhere', which is no program here"):
        SubprocessV2A("no-such-program-anywhere --fast", str(tmp_path))
    with pytest.raises(InputError, match=r"names '\{runners\}/vaura.py', which does not ship; '\{runners\}/prog"):
        SubprocessV2A([sys.executable, "{runners}/vaura.py"], str(tmp_path))
    program = [sys.executable, "{runners}/program.py"]
    with pytest.raises(
        InputError, match=r"ended with status 1: the first argument is ''; it has to be vaura or mmaudio"
    ):
        SubprocessV2A(program, str(tmp_path))
    with pytest.raises(InputError, match=r"command holds \{jobs\}, but with stays: true .*; leave \{jobs\} out"):
        SubprocessV2A([sys.executable, "program.py", "{jobs}"], str(tmp_path), stays=True)
    with torch.device("meta"):  # where only shapes are counted, nothing is run
        assert SubprocessV2A(program, str(tmp_path)).identifying_settings()["command"] == program


def test_list_is_appended_when_no_argument_names_it(video, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    sound, _ = SubprocessV2A(f"'{sys.executable}' '{program}' ok", str(tmp_path / "work"))(video, 24.0)
    assert sound.any(dim=1).all()


def test_two_commands_are_two_judges(tmp_path):
    judges = [SubprocessV2A([sys.executable, name], workdir=str(tmp_path), timeout_s=5) for name in ("a.py", "b.py")]
    settings = [judge.identifying_settings() for judge in judges]
    assert settings[0] == {"command": [sys.executable, "a.py"], "sample_rate": 22_050, "crf": 10.0}
    assert settings[1] == {**settings[0], "command": [sys.executable, "b.py"]}
    # where it works and how long it may take changes no sound
    moved = SubprocessV2A([sys.executable, "a.py"], workdir=str(tmp_path / "other"), keep_files=True)
    assert moved.identifying_settings() == settings[0]
    digests = [CycleSyncCallback(judge)._judge["v2a_sha256"] for judge in (*judges, moved)]
    assert digests[0] == digests[2] != digests[1]


def test_other_weights_are_another_judge(tmp_path):
    folder, file = tmp_path / "model", tmp_path / "codec.pt"
    folder.mkdir()

    def digest(of_model, of_codec, *named):
        (folder / "best.pt").write_text(of_model)
        file.write_text(of_codec)
        judge = SubprocessV2A([sys.executable, "a.py"], str(tmp_path), weights=[str(name) for name in named])
        return CycleSyncCallback(judge)._judge["v2a_sha256"]

    both = digest("one", "two", folder, file)
    assert both == digest("one", "two", folder, file)
    assert len({both, digest("other", "two", folder, file), digest("one", "other", folder, file)}) == 3
    assert digest("one", "other", folder) == digest("one", "two", folder)
    assert digest("one", "two") == digest("other", "two")  # nothing is known of what is not named
    with pytest.raises(InputError, match=r"weights names '\S+none.pt', which does not exist; give files or folders"):
        digest("one", "two", tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"v2a.weights: '\S+none.pt' does not exist"):
        check_named_files(SubprocessV2A, {"weights": [str(file), str(tmp_path / "none.pt")]}, "v2a")
