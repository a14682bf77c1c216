"""Harmony's three stages, unchanged but for paths and sizes, on tiny releases in the exact public formats."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.backbones.harmony.checkpoint import load_harmony
from components.backbones.harmony.model import PARTS, part_of
from components.media.reader import probe, read_sound, read_video
from components.v2a.onset_v2a import OnsetV2A
from lightning_modules.command_line.cli import main
from tests.public_folders.harmony import NUM_LAYERS, TEXT_DIM, TRANSCRIPT_DIM, write_harmony_releases
from tests.public_folders.speech import heard, write_manifest, write_speech

pytestmark = [pytest.mark.gate, pytest.mark.long]

FRAMES, FPS, RATE, SIDE = 13, 24.0, 16_000, 64
AUDIO, JOINT = ("audio_codec", "text_encoder", "transcript_encoder"), "stage3_joint"
KINDS = ("", "_no_synccfg", "_real", "_chance")
JUDGED = {f"{metric}{kind}" for metric in ("sync_c", "sync_d") for kind in KINDS}

TINY_AUDIO = {
    "num_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 48,
    "text_dim": TEXT_DIM,
    "transcript_dim": TRANSCRIPT_DIM,
    "freq_dim": 32,
}
SCORER = "--callbacks.sync_confidence.init_args.scorer.init_args"
MIN_DURATION = f"{SCORER}.min_duration_s"
UNJUDGED = ("--callbacks.sync_confidence=null", "--callbacks.cyclesync=null", "--callbacks.report=null")
WRITTEN = (*UNJUDGED, "--callbacks.writer.class_path=callbacks.prediction_writer.PredictionWriter")
UNCOUNTED = "--callbacks.throughput=null"  # what a step costs is counted for seconds; of the other runs it is
ON_THIS_MACHINE = ("--trainer.accelerator=cpu", "--data.num_workers=0")
AUDIO_ALONE = (
    *(f"--clip.num_frames={FRAMES}", "--data.batch_size=2", "--data.max_val_clips=1"),
    "--trainer.accumulate_grad_batches=1",
)
SMALL = {
    "stage1_audio": (*AUDIO_ALONE, "--data.reference_s=0.4", "--data.min_reference_s=0.2"),
    "stage2_timbre": AUDIO_ALONE,
    JOINT: (
        "--trainer.accumulate_grad_batches=1",
        *(f"--clip.num_frames={FRAMES}", f"--clip.height={SIDE}", f"--clip.width={SIDE}", "--data.max_val_clips=2"),
        *("--model.sampler.init_args.num_steps=2", f"{MIN_DURATION}=0.4"),
    ),
}
"""Seconds instead of minutes; `test_full_size` leaves the clips as long and large as they are."""


@dataclass(frozen=True)
class Place:
    """A folder to run in, the releases and the clips."""

    folder: Path
    releases: Path
    manifest: Path

    def options(self, experiment: str) -> list[str]:
        """Where things are, and how wide what has no release to say it is."""
        releases, transformer = self.releases, "--model.transformer.init_args"
        found = [
            f"--model.audio_codec.init_args.vae={releases / 'mmaudio/v1-16.pth'}",
            f"--model.audio_codec.init_args.vocoder={releases / 'mmaudio/best_netG.pt'}",
            f"--model.text_encoder.init_args.source.init_args.folder={releases / 'wan'}",
            f"--model.transcript_encoder.init_args.source.init_args.folder={releases / 'byt5'}",
            f"--model.text_encoder.init_args.folder={self.folder / 'text'}",
            f"--model.transcript_encoder.init_args.folder={self.folder / 'transcripts'}",
            f"--data.root={self.manifest}",
            *(f"{transformer}.audio.init_args.{name}={value}" for name, value in TINY_AUDIO.items()),
        ]
        if experiment == JOINT:
            syncnet = releases / "syncnet_v2.model"
            found += [
                f"{transformer}.video.init_args.folder={releases / 'wan'}",
                f"{transformer}.interaction.width=24",
                f"{transformer}.interaction.num_heads=1",
                f"--model.video_codec.init_args.folder={releases / 'wan'}",
                f"{SCORER}.net.init_args.source={syncnet}",
                # flat pictures, in which nobody would find a face
                f"{SCORER}.faces=components.metrics.syncnet.tracking.WholeFrame",
                f"{SCORER}.scenes.threshold=1000",
                f"--callbacks.cyclesync.init_args.v2a.init_args.folder={releases / 'v2a'}",
            ]
        return found


def avsync(command: str, experiment: str, place: Place, *options: str) -> int:
    given = [*place.options(experiment), *ON_THIS_MACHINE, *SMALL[experiment], *options]
    return main([command, "--config", f"configs/harmony/{experiment}.yaml", *given])


def steps(count: int) -> list[str]:
    """So many of them, then a validation."""
    return [
        *(f"--trainer.max_steps={count}", f"--trainer.val_check_interval={count}", "--trainer.log_every_n_steps=1"),
        "--callbacks.checkpoint.init_args.every_n_train_steps=2",
    ]


def run_folder(experiment: str, version: int = 0) -> Path:
    return Path("runs", experiment, f"version_{version}")


def checkpoint_of(experiment: str, file: str = "last.ckpt") -> Path:
    return run_folder(experiment) / "checkpoints" / file


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def losses(folder: Path) -> list[float]:
    return [event.value for event in EventAccumulator(str(folder)).Reload().Scalars("train/loss")]


def metrics(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())["metrics"]  # type: ignore[no-any-return]


def watched(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and sound of a written clip, read by the reader that training uses."""
    info = probe(path)
    assert info.audio_span_s is not None
    assert info.duration_s == pytest.approx(FRAMES / FPS, abs=0.03)
    return read_video(path, 0.0, FRAMES, FPS, SIDE, SIDE).float(), read_sound(path, RATE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("harmony")
    write_harmony_releases(folder / "releases")
    torch.manual_seed(0)
    OnsetV2A(height=16, width=16).save_pretrained(folder / "releases" / "v2a")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["avsync"])
        yield Place(folder, folder / "releases", write_manifest(folder / "clips", seconds=0.6))


@pytest.fixture(scope="module")
def trained(place: Place) -> Place:
    """All three stages, each of which finds the one before where its config says that it is."""
    keep_all = "--callbacks.checkpoint.init_args.save_top_k=-1"
    assert avsync("fit", "stage1_audio", place, *steps(2)) == 0
    assert avsync("fit", "stage2_timbre", place, *steps(2), UNCOUNTED) == 0
    assert avsync("fit", JOINT, place, *steps(4), keep_all) == 0
    return place


def test_each_stage_goes_on_from_the_one_before(trained: Place):
    stored = {name: load(checkpoint_of(name)) for name in SMALL}
    for name, checkpoint in stored.items():
        assert checkpoint["harmony_stage"] == name.partition("_")[2]
        assert set(checkpoint["frozen"]) == {*AUDIO, *(["video_codec"] if name == JOINT else [])}
        assert all(len(part["sha256"]) == 64 for part in checkpoint["frozen"].values())
        weights = {key for key in checkpoint["state_dict"] if not key.startswith("ema.")}
        assert {key.removeprefix("ema.") for key in checkpoint["state_dict"]} == weights
        assert {part_of(key.removeprefix("transformer.")) for key in weights} == set(
            PARTS if name == JOINT else ["audio"]
        )
        logged = losses(run_folder(name))
        assert len(logged) == checkpoint["global_step"] == (4 if name == JOINT else 2)
        assert all(math.isfinite(value) and value > 0 for value in logged)
    frozen = [checkpoint["frozen"] for checkpoint in stored.values()]
    assert all(frozen[0][part] == later[part] for part in AUDIO for later in frozen[1:])
    # what a stage begins with is where the one before ended: a few steps at a rate of 1e-5 cannot go far
    first, second, third = (checkpoint["state_dict"] for checkpoint in stored.values())
    for before, after in ((first, second), (second, third)):
        moved = [(before[key] - after[key]).abs().max() for key in before if not key.startswith("ema.")]
        assert 0 < max(moved) < 1e-4


def test_the_joint_stage_reports_samples_and_how_well_they_agree(trained: Place):
    folder = run_folder(JOINT)
    found = metrics(folder)
    assert found.keys() >= {"cyclesync", "cyclesync_no_synccfg", "cyclesync_real"}
    judged = {name: entry for name, entry in found.items() if name.startswith("sync_")}
    assert judged.keys() == JUDGED
    for entry in judged.values():
        low, high = entry["ci95"]
        assert entry["n"] == entry["n_clips"] == 2 and low <= entry["value"] <= high
        assert entry["syncnet"].endswith("syncnet_v2.model") and len(entry["syncnet_sha256"]) == 64
    assert (folder / "report" / "index.html").is_file()
    for name in ("test_0_0", "test_1_0"):
        for kind in ("generated", "no_synccfg", "real"):
            assert probe(folder / "report" / "media" / f"{name}.{kind}.mp4").audio_span_s is not None


def test_a_resumed_run_is_the_uninterrupted_one_and_short_clips_are_not_scored(trained: Place):
    """The judge needs two seconds by default; clips below are counted and reported, and have no score."""
    start = checkpoint_of(JOINT, "epoch=0-step=2.ckpt")
    options = ("--experiment=resumed", "--ckpt_path", str(start), f"{MIN_DURATION}=2", UNCOUNTED)
    with pytest.warns(UserWarning, match=r"no clip has sync_c and sync_d \(generated\): 0 .* no face and 2 are below"):
        assert avsync("fit", JOINT, trained, *steps(4), *options) == 0
    folder = run_folder("resumed")
    assert not metrics(folder).keys() & JUDGED
    assert losses(folder) == losses(run_folder(JOINT))[2:]
    whole, resumed = load(checkpoint_of(JOINT)), load(folder / "checkpoints" / "last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 4
    for key, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], value), key
    media = list(folder.glob("report/media/*.generated.mp4"))
    assert len(media) == 2
    for path in media:  # pictures as x264 writes them differ in some bits from one time to the next
        assert torch.equal(read_sound(path, RATE), read_sound(run_folder(JOINT) / "report/media" / path.name, RATE))


def test_a_checkpoint_and_the_folder_it_is_exported_to_are_the_model(trained: Place):
    checkpoint, joint = checkpoint_of(JOINT), metrics(run_folder(JOINT))
    assert avsync("validate", JOINT, trained, "--experiment=validated", "--ckpt_path", str(checkpoint)) == 0
    assert metrics(run_folder("validated")) == joint
    assert avsync("export", JOINT, trained, "--ckpt_path", str(checkpoint), "--folder=exported") == 0
    stored = load(checkpoint)["state_dict"]
    back = load_harmony("exported").state_dict()
    averages = {key.removeprefix("ema.transformer."): value for key, value in stored.items() if key.startswith("ema.")}
    assert averages.keys() == back.keys()
    assert all(torch.equal(back[key], value) for key, value in averages.items())
    transformer = {
        "class_path": "components.backbones.harmony.load_harmony",
        "init_args": {"folder": "exported", "video": None, "audio": None},
    }
    Path("exported.json").write_text(
        json.dumps({"model": {"init_args": {"transformer": transformer, "curriculum": {"init_from": None}}}})
    )
    files = ["--config", f"configs/harmony/{JOINT}.yaml", "--config", "exported.json"]
    options = [option for option in (*trained.options(JOINT), *SMALL[JOINT]) if "transformer" not in option]
    assert main(["validate", *files, *options, *ON_THIS_MACHINE, "--experiment=of_folder", "--callbacks.ema=null"]) == 0
    assert metrics(run_folder("of_folder")) == joint


@pytest.mark.slow  # as in tests/callbacks/test_sync_confidence.py and of the real detector test_mtcnn.py
def test_scenes_without_a_face_have_no_lip_sync(trained: Place):
    """The experiment as it ships looks for faces; where there is none, nothing is scored, and that is said."""
    shipped = (f"{SCORER}.faces=components.metrics.faces.mtcnn.MTCNN", f"{SCORER}.scenes.threshold=30")
    options = ("--experiment=scenes", "--ckpt_path", str(checkpoint_of(JOINT)), *shipped)
    with pytest.warns(
        UserWarning, match=r"no clip has sync_c and sync_d \(generated\): 2 have no face and 0 are below"
    ):
        assert avsync("validate", JOINT, trained, *options) == 0
    assert not metrics(run_folder("scenes")).keys() & JUDGED


# jointly as in test_own_pictures_words_and_voices and, validated, in the report
@pytest.mark.parametrize("task", [pytest.param("joint", marks=pytest.mark.slow), "audio_to_video", "video_to_audio"])
def test_predictions_are_clips_with_sound(trained: Place, task: str):
    options = (f"--experiment={task}", *WRITTEN, f"--model.init_args.generation.task={task}")
    assert avsync("predict", JOINT, trained, *options, "--ckpt_path", str(checkpoint_of(JOINT))) == 0
    written = sorted(run_folder(task).glob("predictions/*.mp4"))
    assert [path.stem for path in written] == ["test_0_0", "test_1_0"]
    clips = [watched(path) for path in written]
    for speaker, (path, (video, sound)) in enumerate(zip(written, clips, strict=True)):
        real = read_video(trained.manifest.parent / path.name, 0.0, FRAMES, FPS, SIDE, SIDE).float()
        assert (heard(sound) == (speaker, 0)) == (task == "audio_to_video")
        assert ((video - real).abs().mean() < 8) == (task == "video_to_audio")
        assert 0.01 < sound.abs().max() <= 1


def test_own_pictures_words_and_voices(trained: Place):
    """The data module of ``configs/harmony/predict.yaml``."""
    write_speech(Path("voice.wav"), 3, 0, 1.0)
    data = {
        "class_path": "datamodules.image_audio_pairs.ImageAudioPairs",
        "init_args": {
            "images": [str(trained.manifest.parent / "test_0_0.mp4")],
            "captions": ["a face"],
            "scenes": ["a voice"],
            "transcripts": ["the fox"],
            "references": ["voice.wav"],
        },
    }
    Path("mine.json").write_text(json.dumps({"data": data}))
    options = [option for option in (*trained.options(JOINT), *SMALL[JOINT]) if not option.startswith("--data")]
    files = ["--config", f"configs/harmony/{JOINT}.yaml", "--config", "mine.json"]
    checkpoint = ["--ckpt_path", str(checkpoint_of(JOINT))]
    assert main(["predict", *files, *options, ON_THIS_MACHINE[0], *WRITTEN, *checkpoint]) == 0
    (written,) = run_folder("mine").glob("predictions/*.mp4")
    watched(written)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mistaken(place: Place) -> Path:
    """Manifests in which every row has the same thing wrong."""
    folder = place.manifest.parent
    rows = [json.loads(line) for line in place.manifest.read_text().splitlines()]
    write_speech(folder / "mute.mp4", 0, 0, 0.6, sound=False)
    write_speech(folder / "long.wav", 0, 0, 6.0)
    changes: dict[str, dict[str, str]] = {
        "mute": {"video": "mute.mp4"},
        "long_reference": {"reference_audio": "long.wav"},
        "long_transcript": {"transcript": "na " * 200},
    }
    for name, change in changes.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row | change) + "\n" for row in rows))
    return folder


def init_from(experiment: str) -> str:
    return f"--model.init_args.curriculum.init_from={checkpoint_of(experiment)}"


def elsewhere(*case: Any) -> Any:
    """A mistake whose sentence a quick test of the part that says it holds, too."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("command", "experiment", "options", "sentence"),
    [
        elsewhere("fit", JOINT, [init_from("stage1_audio")], "trained in stage audio, but this is stage joint: give a"),
        elsewhere("fit", "stage2_timbre", [init_from(JOINT)], "trained in stage joint, but this is stage timbre: give"),
        elsewhere(
            "fit", JOINT, [f"--ckpt_path={checkpoint_of('stage2_timbre')}"], "stage timbre, but this is stage joint: to"
        ),
        elsewhere(
            "fit",
            JOINT,
            ["--data.audio_only=true"],
            "all training clips are sounds alone (audio_only), but stage joint learns videos",
        ),
        elsewhere("fit", JOINT, ["--data.root=mute"], "mute.mp4 has no audio track; give a recording with sound"),
        elsewhere(
            "predict",
            JOINT,
            ["--data.audio_only=true", "--ckpt_path=pretrained"],
            "has no picture, but videos are made from their first frame",
        ),
        elsewhere(
            "predict",
            JOINT,
            [
                "--data.audio_only=true",
                "--model.init_args.generation.task=video_to_audio",
                "--ckpt_path=pretrained",
            ],
            "0 video frames, so it is a sound alone, but this task needs videos",
        ),
        elsewhere(
            "fit",
            "stage2_timbre",
            ["--data.root=long_reference", "--data.long_references=error"],
            "long.wav lasts 6.000 s, longer than reference_s = 3.000; lengthen",
        ),
        elsewhere("fit", "stage1_audio", ["--data.root=long_transcript"], "has 599 bytes but at most 384 are read"),
        (
            "fit",
            "stage1_audio",
            ["--model.init_args.generation.task=audio_to_video"],
            "generation.task is 'audio_to_video', but stage audio makes sounds alone: leave it out, or set curriculum",
        ),
        ("fit", JOINT, ["--model.init_args.dropout.text=2"], "dropout.text is 2.0: give a probability from 0 to 1"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    trained: Place,
    mistaken: Path,
    command: str,
    experiment: str,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
):
    named = [
        f"--data.root={mistaken / option.partition('=')[2]}.jsonl" if "root" in option else option for option in options
    ]
    named += UNJUDGED if experiment == JOINT else []
    assert avsync(command, experiment, trained, "--experiment=mistaken", *named) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and sentence in said[0]


@pytest.mark.slow  # as in tests/lightning_modules/command_line/test_cli.py
def test_a_loader_process_tells_it_too(trained: Place, mistaken: Path, capsys: pytest.CaptureFixture[str]):
    options = (f"--data.root={mistaken / 'mute.jsonl'}", "--data.num_workers=1", "--experiment=mistaken")
    assert avsync("fit", JOINT, trained, *options) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow  # minutes: 121 frames of 480 x 832
def test_full_size(trained: Place, tmp_path: Path):
    manifest = write_manifest(tmp_path / "clips", seconds=5.1, utterances=1)
    few = ("--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.max_val_clips=1")
    options = [*trained.options(JOINT), *ON_THIS_MACHINE, *few, "--model.sampler.init_args.num_steps=1"]
    config = ["--config", f"configs/harmony/{JOINT}.yaml"]
    assert main(["fit", *config, *options, f"--data.root={manifest}", "--experiment=full"]) == 0
    assert metrics(run_folder("full")).keys() >= {"sync_c", "sync_d", "sync_c_real", "sync_d_real"}
