"""Speech with pictures and sounds without, in Harmony's joint stage: from recordings, encoded, and one of each."""

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml

from datamodules.prepared.streaming import OURS
from lightning_modules.command_line.cli import main
from tests.public_folders.speech import write_speech

pytestmark = [pytest.mark.gate, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[3]
JOINT = ["--config", str(ROOT / "configs/harmony/quickstart.yaml")]
CLIPS = "datamodules.speech_clips.SpeechClips"
SHAPE = ["--clip", "{num_frames: 17, fps: 24.0, height: 32, width: 32, sample_rate: 16000}"]
SETS = {"speech": {}, "ambient": {"audio_only": True}}
SETTINGS = {"reference": "voice", "reference_s": 0.5, "min_reference_s": 0.25}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three talking heads and four sounds, with caches of both."""
    folder = tmp_path_factory.mktemp("mixture")
    for kind, count in (("speech", 3), ("ambient", 4)):
        rows = []
        for index in range(count):
            file = f"{kind}/{index}.{'mp4' if kind == 'speech' else 'wav'}"
            write_speech(folder / file, 0 if kind == "speech" else 1, index, seconds=2.0)
            words = {"speaker": "ann"} if kind == "speech" else {}
            row = {"id": str(index), "video" if kind == "speech" else "audio": file, "caption": kind, **words}
            rows += [{**row, "split": split, "id": f"{split}{index}"} for split in ("train", "test")]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = ["--data", CLIPS, f"--data.root={folder / f'{kind}.jsonl'}", "--data.num_workers=0"]
        data += [f"--data.{name}={value}" for name, value in {**SETTINGS, **SETS[kind]}.items()]
        out = ["--out", str(folder / f"{kind}_latents"), "--offsets", "2"]
        assert main(["prepare", *out, *JOINT, *SHAPE, *data]) == 0
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])


def fit(root: Path, run: str, encoded: tuple[str, ...], *options: str, kinds: tuple[str, ...] = tuple(SETS)) -> int:
    given = {kind: {"latents": str(root / f"{kind}_latents")} if kind in encoded else {"offsets": 2} for kind in kinds}
    sets = {
        kind: {
            "class_path": CLIPS,
            "init_args": {"root": str(root / f"{kind}.jsonl"), **SETTINGS, **SETS[kind], **more},
        }
        for kind, more in given.items()
    }
    arguments = {"sets": sets, "batch_size": 2, "num_workers": 0}
    data = {"data": {"class_path": "datamodules.mixture.Mixture", "init_args": arguments}}
    Path(f"{run}.yaml").write_text(yaml.safe_dump(data))
    quiet = ("--callbacks=null", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    training = ["--trainer.max_steps=4", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"]
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=."]
    saving = ["--trainer.enable_checkpointing=false", "--experiment", run]
    return main(["fit", *JOINT, "--config", f"{run}.yaml", *SHAPE, *quiet, *training, *logger, *saving, *options])


def logged(run: str) -> list[dict[str, str]]:
    (file,) = Path().rglob(f"*{run}/version_0/metrics.csv")
    return [row for row in csv.DictReader(file.open()) if row["train/loss"]]


def test_encoded_and_read_sets_train_the_same_and_sounds_alone_teach_the_sound(root):
    found = {}
    for run, encoded in (("raw", ()), ("cached", ("speech", "ambient")), ("half", ("speech",))):
        assert fit(root, run, encoded) == 0
        found[run] = [float(row["train/loss"]) for row in logged(run)]
    assert len(found["raw"]) == 4
    assert found["cached"] == pytest.approx(found["raw"], rel=1e-5)
    assert found["half"] == pytest.approx(found["raw"], rel=1e-5)
    rows = logged("raw")
    moving = {(float(row["train/clips_with_motion"]), float(row["train/rows/video"]) > 0) for row in rows}
    assert moving <= {(0.0, False), (2.0, True), (2.0, False)} and len({motion for motion, _ in moving}) == 2
    assert all(float(row["train/clips_with_sound"]) == 2 for row in rows)


def test_a_stage_that_learns_videos_is_not_given_sounds_alone(root, capsys):
    assert fit(root, "sounds", (), kinds=("ambient",)) == 2
    assert "all training clips are sounds alone (audio_only), but stage joint learns videos" in capsys.readouterr().err


def test_a_mixture_is_prepared_set_by_set(root, capsys):
    assert fit(root, "raw", (), "--trainer.max_steps=1") == 0
    assert main(["prepare", "--out", "latents", *JOINT, *SHAPE, "--config", "raw.yaml"]) == 2
    assert "prepare each of its sets by itself" in capsys.readouterr().err


def test_caches_of_other_weights_do_not_mix(root, capsys):
    index = root / "ambient_latents" / "index.json"
    kept = index.read_text()
    other = json.loads(kept)
    other[OURS]["identities"]["video_codec"]["sha256"] = "0" * 64
    try:
        index.write_text(json.dumps(other))
        assert fit(root, "mixed", ("speech", "ambient")) == 2
    finally:
        index.write_text(kept)
    assert "was prepared with another video_codec than" in capsys.readouterr().err
