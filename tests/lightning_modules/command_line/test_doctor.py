"""``avsync doctor`` on a folder of real files, against what ``avsync fit`` does with the same options."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from components.media.writer import write_mp4
from lightning_modules.command_line.cli import main
from tests.datamodules.conftest import write_recording

QUICKSTART = ["--config", "configs/quickstart.yaml", "--callbacks", "null"]
NO_WEIGHTS = """
model:
  class_path: lightning_modules.syncphony.SyncphonyModule
  init_args:
    dit:
      class_path: components.backbones.syncphony.SyncphonyDiT
      init_args:
        backbone:
          class_path: components.backbones.pyramid_flow.pretrained_backbone
          init_args: {folder: not/there}
        first_late_block: 3
        audio_dim: 64
    codec: {class_path: components.codecs.video.principal.PrincipalCodec.from_pretrained, init_args: {folder: nor/here}}
    text_encoder: {class_path: components.encoders.text.hashed_words.HashedWords}
    audio_encoder: {class_path: components.encoders.audio.log_mel.LogMelEncoder}
    loss: {class_path: components.objectives.motion_aware.MotionAwareLoss}
    sampler: {class_path: components.samplers.pyramid_sampler.PyramidSampler}
clip: {num_frames: 49, fps: 24.0, height: 32, width: 32, sample_rate: 16000}
trainer: {accelerator: cpu, max_steps: 2}
"""


def folder_options(root: Path, **settings: object) -> list[str]:
    settings = {"prompt": "a tone", "num_workers": 0, "batch_size": 4, "val_batch_size": 2, **settings}
    data = ["--data", "datamodules.folder_clips.FolderClips", "--data.root", str(root)]
    return data + [f"--data.{name}={value}" for name, value in settings.items()]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    root.mkdir()
    for k in range(6):
        write_recording(root / f"good{k}.mp4", 3.0, k)
    return root


@pytest.fixture
def mixed(good: Path) -> Path:
    """Five files more that say whether they are for training; of these, four cannot be used."""
    write_recording(good / "short.mp4", 1.0, 7)
    write_recording(good / "mute.mp4", 3.0, 8, sound=False)
    write_recording(good / "quiet.mp4", 3.0, 9, loudness=1e-4)
    (good / "nonsense.mp4").write_text("no video")
    content = (good / "good0.mp4").read_bytes()
    (good / "cut.mp4").write_bytes(content[: len(content) // 3])
    names = sorted(path.name for path in good.glob("*.mp4"))
    rows = [f"{name},{'test' if name == 'good5.mp4' else 'train'}" for name in names]
    (good / "metadata.csv").write_text("file_name,split\n" + "\n".join(rows) + "\n")
    return good


def doctor(out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = main(["doctor", "--out", str(out), "--workers", "0", *options])
    return status, json.loads((out / "doctor.json").read_text())


def test_the_counts_are_those_of_a_training(
    mixed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What the doctor drops is what ``fit`` skips, one by one; both say the same counts."""
    options = [*QUICKSTART, *folder_options(mixed, on_corrupt="skip", max_corrupt_fraction=0.5)]
    status, found = doctor(tmp_path / "out", *options)
    printed = capfd.readouterr().out
    assert status == 0
    assert found["problems"] == []
    train = found["splits"]["train"]
    assert (train["recordings"], train["used"]) == (10, 6)
    assert train["dropped"] == {"unreadable": 2, "shorter than a clip": 1, "without sound": 1}
    line = "train: 6 recordings, 18.0 s; 4 dropped: 2 unreadable, 1 shorter than a clip, 1 without sound"
    assert line in printed
    steps = ["--trainer.max_steps=8", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    assert main(["fit", *options, *steps, f"--trainer.default_root_dir={tmp_path / 'runs'}"]) == 0
    skipped = {
        Path(re.sub(r".*?(/\S+\.mp4).*", r"\1", record.getMessage())).stem
        for record in caplog.records
        if record.getMessage().startswith("skipped unusable clip")
    }
    dropped = {row["id"] for row in found["recordings"] if not row["used"]}
    assert skipped == dropped == {"cut", "mute", "nonsense", "short"}
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("train: skipped")]
    assert told[0].startswith("train: skipped 4 of 10 recordings: 2 unreadable")
    # the file that is cut off shows that only where it is decoded
    first = "train: 7 recordings, 21.0 s; 3 cannot be used: 1 unreadable, 1 shorter than a clip, 1 without sound"
    assert first in [record.getMessage() for record in caplog.records]


def test_what_it_writes(mixed: Path, tmp_path: Path) -> None:
    _, found = doctor(tmp_path / "out", *QUICKSTART, *folder_options(mixed))
    rows = {row["id"]: row for row in found["recordings"]}
    assert rows["good0"]["used"]
    assert (rows["good0"]["fps"], rows["good0"]["width"], rows["good0"]["split"]) == (24.0, 16, "train")
    assert rows["good0"]["tracks"] == ["video h264", "audio aac 16000 Hz mono"]
    assert rows["good0"]["remarks"] == ["16x16 pixels for clips of 32x32"]
    assert "all of the sound is silent" in rows["quiet"]["remarks"]
    assert rows["short"]["fault"] == "shorter than a clip"
    assert "short.mp4 is too short" in rows["short"]["reason"]
    assert rows["mute"]["silent_share"] is None
    assert rows["mute"]["still_share"] == 0
    with (tmp_path / "out/doctor.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [row["id"] for row in found["recordings"]]
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<article") == len(table)
    assert page.count("data:image/jpeg;base64,") == 9  # nothing of the two that cannot be decoded
    assert "light-dark(" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"


def test_a_training_that_would_end_is_a_problem(mixed: Path, tmp_path: Path) -> None:
    status, found = doctor(tmp_path / "a", *QUICKSTART, *folder_options(mixed))
    assert status == 1
    wanted = "a training would end at the first of 4 recordings of train that cannot be used; remove them, or set"
    assert found["problems"][0].startswith(wanted)
    status, found = doctor(tmp_path / "b", *QUICKSTART, *folder_options(mixed, on_corrupt="skip"))
    assert status == 1
    assert "4 of 10 recordings of train cannot be used, more than data.max_corrupt_fraction = 0.01" in str(found)


def test_nothing_to_train_on(good: Path, tmp_path: Path) -> None:
    status, found = doctor(tmp_path / "out", *QUICKSTART, *folder_options(good), "--clip.num_frames=97")
    assert status == 1
    assert [problem.partition(":")[0] for problem in found["problems"]] == [
        "there is nothing to train on",
        "there is nothing to validate with",
    ]
    options = [*folder_options(good), "--clip.num_frames=97", "--trainer.limit_val_batches=0"]
    assert len(doctor(tmp_path / "out", *QUICKSTART, *options)[1]["problems"]) == 1, "nothing is validated"


def test_a_modality_that_is_needed_and_not_there(tmp_path: Path) -> None:
    root = tmp_path / "still"
    root.mkdir()
    video = torch.full((72, 3, 16, 16), 90, dtype=torch.uint8)
    for k in range(3):
        write_mp4(root / f"{k}.mp4", video, 24, 0.3 * torch.sin(torch.arange(48000) / (5 + k)), 16000)
    status, found = doctor(tmp_path / "a", *QUICKSTART, *folder_options(root))
    assert (status, found["problems"]) == (1, ["the model needs video, but nothing moves in what is used of train"])
    harmony = ["--config", "configs/harmony/quickstart.yaml", "--callbacks", "null"]
    status, found = doctor(tmp_path / "b", *harmony, *folder_options(root, audio_only="true", reference="voice"))
    assert status == 1
    assert "the model needs moving pictures, but audio_only leaves them out of train" in found["problems"][0]
    stage1 = ["--config", "configs/harmony/quickstart_stage1.yaml", "--callbacks", "null"]
    assert doctor(tmp_path / "c", *stage1, *folder_options(root, audio_only="true", reference="voice"))[0] == 0


def test_no_model_is_built(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights need not be there yet; the folder is the experiment's, and the options may be all those of ``fit``."""
    (tmp_path / "big.yaml").write_text(NO_WEIGHTS)
    monkeypatch.chdir(tmp_path)
    options = ["--config", "big.yaml", *folder_options(good), "--ckpt_path", "last"]
    assert main(["doctor", "--workers", "1", *options]) == 0
    written = sorted(path.name for path in Path("runs/big/doctor").iterdir())
    assert written == ["doctor.csv", "doctor.json", "index.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing says which data to look at"),
        (["--workers", "-1", *QUICKSTART], "--workers is -1; give 0"),
        (["--config", "configs/trainer/cpu.yaml"], "data and model must be given"),
        ([*QUICKSTART, "--data.root", "x", "--nonsense", "3"], "nonsense"),
        (["--config", "configs/quickstart.yaml", "--config", "configs/predict.yaml"], "is no ClipDataModule"),
        ([*QUICKSTART, *folder_options(Path("not/there"))], "not/there"),
        ([*QUICKSTART, "--data.latents", "some/folder"], "looks at recordings, and data.latents is some/folder"),
    ],
)
def test_bad_input_is_one_sentence(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


MIXTURE = """
data:
  class_path: datamodules.mixture.Mixture
  init_args:
    sets:
      beach:
        class_path: datamodules.folder_clips.FolderClips
        init_args: {root: ROOT, prompt: a tone}
      city:
        class_path: datamodules.folder_clips.FolderClips
        init_args: {root: ROOT, prompt: a tone, on_corrupt: skip, max_corrupt_fraction: 0.5, SETTING}
    batch_size: 4
    val_batch_size: 2
    num_workers: 0
"""


def test_the_sets_of_a_mixture_are_looked_at_one_by_one(mixed: Path, tmp_path: Path) -> None:
    """Each under its name, and with its own settings for what cannot be used."""

    def options(setting: str) -> list[str]:
        text = MIXTURE.replace("ROOT", str(mixed)).replace("SETTING", setting)
        (tmp_path / "mixture.yaml").write_text(text)
        return [*QUICKSTART, "--config", str(tmp_path / "mixture.yaml")]

    status, found = doctor(tmp_path / "a", *options("mute: skip"))
    assert status == 1
    assert (found["splits"]["train"]["recordings"], found["splits"]["train"]["used"]) == (20, 12)
    assert {"beach/good0", "city/good0"} < {row["id"] for row in found["recordings"]}
    wanted = (
        "a training would end at the first of 4 recordings of train (beach) that cannot be used; remove them, or set "
    )
    assert found["problems"] == [wanted + "data.sets.beach.on_corrupt to skip"]
    _, found = doctor(tmp_path / "b", *options("audio_only: true"))
    wanted = "the model needs moving pictures, but audio_only leaves them out of train (city); set it to false"
    assert wanted in found["problems"]
    # Harmony learns the sounds of such a set, and videos are judged on the other one
    harmony = ["--config", "configs/harmony/quickstart.yaml", "--callbacks", "null"]
    alone = [*harmony, *options("audio_only: true, mute: skip")[len(QUICKSTART) :], "--data.evaluate=[beach]"]
    _, found = doctor(tmp_path / "c", *alone)
    assert not any("moving pictures" in problem for problem in found["problems"])


def test_recordings_in_several_shapes_are_looked_at(mixed: Path, tmp_path: Path) -> None:
    write_mp4(mixed / "wide.mp4", torch.randint(0, 255, (72, 3, 16, 32)).to(torch.uint8), 24, torch.rand(48000), 16000)
    with (mixed / "metadata.csv").open("a") as table:
        table.write("wide.mp4,train\n")
    shapes = "--data.bucket_sizes=[[32, 32], [32, 64]]"
    settings = folder_options(mixed, on_corrupt="skip", max_corrupt_fraction=0.5, bucket_cache=tmp_path / "shapes")
    status, found = doctor(tmp_path / "out", *QUICKSTART, *settings, shapes)
    assert status == 0
    assert (found["splits"]["train"]["recordings"], found["splits"]["train"]["used"]) == (11, 7)
    rows = {row["id"]: row for row in found["recordings"]}
    assert rows["wide"]["remarks"] == ["32x16 pixels for clips of 64x32"]
    assert rows["good0"]["remarks"] == ["16x16 pixels for clips of 32x32"]


def test_a_video_tower_alone_needs_no_sound(tmp_path: Path) -> None:
    root = tmp_path / "unheard"
    for k in range(3):
        write_recording(root / f"{k}.mp4", 3.0, k, sound=False)
    alone = ["--config", "configs/harmony/quickstart_video.yaml", "--callbacks", "null"]
    options = folder_options(root, mute="silence", reference="voice")
    status, found = doctor(tmp_path / "a", *alone, *options, "--trainer.limit_val_batches=0")
    assert (status, found["problems"]) == (0, [])
    joint = ["--config", "configs/harmony/quickstart.yaml", "--callbacks", "null"]
    status, found = doctor(tmp_path / "b", *joint, *options, "--trainer.limit_val_batches=0")
    assert (status, found["problems"]) == (1, ["the model needs audio, but nothing sounds in what is used of train"])
