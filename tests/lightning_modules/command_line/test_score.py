"""``avsync score``: files give the scores that the run gave; what does not match is said before anything is built."""

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import lightning as L
import pytest
import torch

from callbacks.clip_files import ClipFiles
from callbacks.cyclesync import CycleSyncCallback
from callbacks.evaluation import EvaluationCallback
from callbacks.results import ResultsWriter
from components.media.lossless import write_lossless
from components.v2a.motion_v2a import MotionV2A
from datamodules.reading.folder import FILE_COLUMNS
from lightning_modules.command_line.cli import main
from tests.callbacks.jumping_squares import JUMPS, JumpingSquares, SquareClips
from tests.components.media.made_files import turn

JUDGE = """
experiment: scored
callbacks:
  cyclesync:
    class_path: callbacks.cyclesync.CycleSyncCallback
    init_args: {v2a: {class_path: components.v2a.motion_v2a.MotionV2A}}
"""
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run whose clips were kept."""
    folder = tmp_path_factory.mktemp("run")
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[ClipFiles(), CycleSyncCallback(MotionV2A()), ResultsWriter()],
        enable_progress_bar=False,
    )
    trainer.test(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    Path("judge.yaml").write_text(JUDGE)


class Sees(EvaluationCallback):
    """Notes whether the pictures it is shown are those that files hold, and the rate of the sound."""

    rounded: ClassVar[list[bool]] = []
    rates: ClassVar[list[int]] = []
    sizes: ClassVar[list[tuple]] = []

    def update(self, generation):
        self.rates.append(generation.sample_rate)
        self.sizes.append((generation.video.shape[-2:], generation.reference.video.shape[-2:]))
        levels = generation.video * 255
        self.rounded.append(bool(((levels - levels.round()).abs() < 1e-4).all()))


def score(*options, config="judge.yaml"):
    return main(["score", "--config", config, *map(str, options), *QUIET])


def metrics(folder):
    return json.loads((Path(folder) / "results.json").read_text())["metrics"]


def lines(folder):
    return sorted((Path(folder) / "clips.jsonl").read_text().splitlines())


def test_files_score_as_the_run_did(kept, capsys):
    clips = kept / "clips"
    variants = [f"--variants.w0={clips / 'w0'}", "--variants.off_sync", clips / "off_sync"]
    status = score("--generated", clips / "generated", "--reference", clips / "real", *variants)
    assert status == 0, capsys.readouterr().err
    # values, intervals, counts and judges, of the generation, all variants, real clips and chance, to the last bit
    assert metrics("runs/scored/version_0") == metrics(kept)
    assert lines("runs/scored/version_0") == lines(kept)
    assert set(metrics(kept)) == {f"cyclesync{end}" for end in ("", "_w0", "_off_sync", "_real", "_chance")}
    assert 0 < metrics(kept)["cyclesync_w0"]["value"] < 100


@pytest.mark.parametrize(("folder", "entry"), [("off_sync", "cyclesync_off_sync"), ("real", "cyclesync_real")])
def test_any_folder_can_be_the_generated_one(kept, folder, entry, capsys):
    status = score("--generated", kept / "clips" / folder, "--reference", kept / "clips/real")
    assert status == 0, capsys.readouterr().err
    assert metrics("runs/scored/version_0")["cyclesync"] == metrics(kept)[entry]


def test_without_real_clips_the_rest_is_the_same(kept, caplog):
    assert score("--generated", kept / "clips/w0") == 0
    assert "without real clips; entries that end in _real have nothing to judge" in caplog.text
    found = metrics("runs/scored/version_0")
    assert found.keys() == {"cyclesync", "cyclesync_chance"}
    assert found["cyclesync"] == metrics(kept)["cyclesync_w0"]


@pytest.mark.parametrize("column", ["video", "file_name"])
def test_a_manifest_alone_says_what_the_clips_are(kept, column, capsys):
    rows = [json.loads(line) for line in (kept / "clips/w0/metadata.jsonl").read_text().splitlines()]
    files = {
        row["id"]: next(str(kept / "clips/w0" / row[name]) for name in FILE_COLUMNS if name in row) for row in rows
    }
    lines_of_it = [{"id": name, column: file, "recording": name[:-2], "steps": 30} for name, file in files.items()]
    Path("made.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines_of_it))
    assert score("--generated", "made.jsonl") == 0, capsys.readouterr().err
    assert metrics("runs/scored/version_0")["cyclesync"] == metrics(kept)["cyclesync_w0"]


def test_what_needs_real_clips_is_left_out_by_name(kept, caplog):
    Path("two.yaml").write_text(JUDGE + "  truth: {class_path: callbacks.picture_truth.PictureTruth}\n")
    assert score("--generated", kept / "clips/w0", config="two.yaml") == 0
    assert "without real clips, left out are truth;" in caplog.text


def test_a_judge_without_its_weights_is_left_out_and_the_others_go_on(kept, capsys):
    missing = """
  identity:
    class_path: callbacks.clip_metrics.ClipMetrics
    init_args:
      scorer:
        class_path: components.metrics.synchformer.scorer.DeSync
        init_args:
          net:
            class_path: components.metrics.synchformer.model.Synchformer.from_pretrained
            init_args: {source: weights/synchformer_state_dict.pth}
"""
    Path("two.yaml").write_text(JUDGE + missing.lstrip("\n"))
    with pytest.warns(
        UserWarning, match=r"left out is identity \(.*download https://.*synchformer_state_dict.pth.*MIT"
    ):
        assert score("--generated", kept / "clips/w0", config="two.yaml") == 0
    assert set(metrics("runs/scored/version_0")) == {"cyclesync", "cyclesync_chance"}
    Path("none.yaml").write_text("experiment: scored\ncallbacks:\n" + missing.lstrip("\n"))
    assert score("--generated", kept / "clips/w0", config="none.yaml") == 2
    assert "every judge lacks its weights: identity" in capsys.readouterr().err


def test_prompts_with_subsets_and_languages_give_results_of_each(kept, capsys):
    words = {"speech": "spoken word en", "complex": "spoken word zh", "ambient": "audio caption"}
    rows = [
        {"id": name, "subset": subset, words[subset]: name, "video caption": "a square"}
        for name, subset in zip(JUMPS, ("speech", "complex", "ambient") * 2, strict=True)
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score("--generated", kept / "clips/w0", "--reference", "prompts.jsonl") == 0
    shown = capsys.readouterr().out
    found = metrics("runs/scored/version_0")["cyclesync"]
    assert found["groups"].keys() == {"subset", "language", "folder"} and found["groups"]["language"].keys() == {
        "en",
        "zh",
    }
    clips = {
        line["clip"]: line for line in map(json.loads, lines("runs/scored/version_0")) if line["kind"] == "generated"
    }
    for subset, entry in found["groups"]["subset"].items():
        values = [clips[row["id"]]["value"] for row in rows if row["subset"] == subset]
        assert entry["value"] == pytest.approx(sum(values) / 2) and (entry["n"], entry["n_clips"]) == (2, 2)
        assert f"  {subset} " in shown
    assert found["groups"]["language"]["en"] == found["groups"]["subset"]["speech"]


def test_real_clips_are_never_taken_for_prompts(kept, capsys):
    Path("prompts.yaml").write_text(JUDGE + "data: {class_path: datamodules.prompt_clips.PromptClips}\n")
    status = score("--generated", kept / "clips/w0", "--reference", kept / "clips/real", config="prompts.yaml")
    assert status == 0, capsys.readouterr().err
    assert "cyclesync_real" in metrics("runs/scored/version_0")


def test_pictures_can_be_judged_by_the_real_sound(kept, capsys):
    status = score(
        "--generated", kept / "clips/generated", "--reference", kept / "clips/real", "--model.sound=reference"
    )
    assert status == 0, capsys.readouterr().err
    assert metrics("runs/scored/version_0")["cyclesync"] == metrics(kept)["cyclesync"]


@pytest.mark.parametrize(
    ("sound", "options", "rate"),
    [
        ("reference", [], 48_000),
        ("generated", ["--model.sound=reference"], 48_000),
        ("generated", ["--model.init_args.sound", "reference"], 48_000),
        ("reference", ["--model.sound", "generated"], 16_000),
        ("reference", ["--clip", "{num_frames: 12, height: 8, width: 8, sample_rate: 22050}"], 22_050),
    ],
)
def test_real_sound_that_is_judged_keeps_its_own_rate(sound, options, rate, capsys):
    for folder, own in (("made", 16_000), ("real", 48_000)):
        Path(folder).mkdir()
        pictures = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
        write_lossless(Path(folder) / "a.mov", pictures, 24.0, torch.ones(own // 2), own)
    Path("sees.yaml").write_text(
        f"model: {{class_path: lightning_modules.judged_files.GeneratedFiles, init_args: {{sound: {sound}}}}}\n"
        "callbacks:\n  sees: {class_path: tests.lightning_modules.command_line.test_score.Sees}\n"
    )
    Sees.rates.clear()
    status = score("--generated", "made", "--reference", "real", *options, config="sees.yaml")
    assert status == 0, capsys.readouterr().err
    assert Sees.rates == [rate]


def test_files_on_their_side_are_judged_upright(capsys):
    for folder in ("made", "real"):
        Path(folder).mkdir()
        file = Path(folder) / "a.mov"
        write_lossless(file, torch.zeros(12, 3, 32, 48, dtype=torch.uint8), 24.0, torch.ones(8000), 16_000)
        turn(file)
    Path("sees.yaml").write_text(
        "callbacks:\n  sees: {class_path: tests.lightning_modules.command_line.test_score.Sees}\n"
    )
    Sees.sizes.clear()
    assert score("--generated", "made", "--reference", "real", config="sees.yaml") == 0, capsys.readouterr().err
    assert Sees.sizes == [((48, 32), (48, 32))]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--generated", "nothing"], "--generated: 'nothing' does not exist"),
        (["--generated", "some", "--reference", "nothing"], "--reference: 'nothing' does not exist"),
        (["--generated", "some", "--variants.w0", "nothing"], "--variants.w0: 'nothing' does not exist"),
        (["--generated", "some", "--variants.w0"], "--variants.w0 names no folder"),
        (["--generated", "some", "--model.sound=reference"], "no real clips are given, so that there is no such sound"),
        (["--reference", "some"], "the following arguments are required: --generated"),
        (["--generated", "some", "--reference", "real"], "no file for 1 of 6 clips: bell/c_0;"),
        (["--generated", "more", "--reference", "real"], "1 file that belongs to no clip: more/extra.mov;"),
        (["--generated", "more", "--reference", "real", "--variants.x=some", "--model.other_files=ignore"], "some has"),
        (
            ["--generated", "real", "--reference", "real", "--clip", "{num_frames: 30, height: 32, width: 32}"],
            "6 files of another length than the clips' 30 frames",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_a_judge_is_built(kept, options, sentence, capsys, monkeypatch):
    shutil.copytree(kept / "clips/real", "real")
    shutil.copytree(kept / "clips/generated", "more")
    shutil.copytree(kept / "clips/generated", "some")
    (next(Path("some").glob("bell_c_0*"))).unlink()
    for folder in ("some", "more"):
        (Path(folder) / "metadata.jsonl").unlink()
    shutil.copy(next(Path("more").glob("bell_c_0*")), "more/extra.mov")
    built = []
    monkeypatch.setattr(MotionV2A, "__init__", lambda self: built.append(self))
    assert score(*options) == 2
    assert sentence in capsys.readouterr().err
    assert not built


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_keeps_its_clips_judges_what_files_hold(kept, capsys):
    """Whatever the order of the callbacks in the configuration."""
    Path("run.yaml").write_text(
        "model: {class_path: tests.callbacks.jumping_squares.JumpingSquares}\n"
        "data: {class_path: tests.callbacks.jumping_squares.SquareClips, init_args: {count: 2}}\n"
        "callbacks:\n  sees: {class_path: tests.lightning_modules.command_line.test_score.Sees}\n"
    )
    files = ["--config", "run.yaml", *(["--config", "configs/eval/keep_clips.yaml"] if kept else [])]
    Sees.rounded.clear()
    assert main(["test", *files, *QUIET]) == 0, capsys.readouterr().err
    assert Sees.rounded == [kept]
    assert bool(list(Path("runs").glob("*/version_0/clips/*/*.mov"))) == kept


def test_nothing_to_judge_by(kept, capsys):
    assert main(["score", "--generated", str(kept / "clips/real")]) == 2
    assert "nothing says what to judge the files by" in capsys.readouterr().err
