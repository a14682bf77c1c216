import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import CSVLogger

from components.errors import InputError
from components.v2a.motion_v2a import MotionV2A
from lightning_modules.command_line.cli import main
from tests.callbacks.jumping_squares import JumpingSquares

ROOT = Path(__file__).parents[3]
SQUARES = "tests.callbacks.jumping_squares"
CONFIG = {
    "seed_everything": 7,
    "model": {"class_path": f"{SQUARES}.JumpingSquares"},
    "data": {"class_path": f"{SQUARES}.SquareClips"},
    "trainer": {
        "max_steps": 2,
        "val_check_interval": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}},
            {"class_path": "PredictionWriter"},
        ],
    },
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An own working directory with the configuration ``squares.yaml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    write_config()


def write_config(name="squares.yaml", **changes):
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *path, last = key.split("__")
        inner = config
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    Path(name).write_text(yaml.safe_dump(config))


def run(*args):
    return main([*args, "--config", "squares.yaml"])


def complaint(capsys):
    """The last line on stderr, which has to be the only one about an error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def test_fit_validate_and_predict(capsys):
    assert run("fit") == 0
    folder = Path("runs/squares/version_0")
    record = json.loads((folder / "results.json").read_text())
    printed = capsys.readouterr().out
    assert set(record["metrics"]) == {f"cyclesync{kind}" for kind in ("", "_w0", "_off_sync", "_real", "_chance")}
    for name, entry in record["metrics"].items():
        low, high = entry["ci95"]
        assert low <= entry["value"] <= high and entry["n"] == 3 and entry["tolerance_s"] == 0.05
        assert name in printed and f"{entry['value']:.2f}" in printed
    assert record["metrics"]["cyclesync_real"]["value"] == pytest.approx(100)
    assert record["seed"] == 7 and record["global_step"] == 2
    saved = (folder / "config.yaml").read_bytes()
    assert record["config_sha256"] == hashlib.sha256(saved).hexdigest()
    assert yaml.safe_load(saved)["model"]["class_path"] == f"{SQUARES}.JumpingSquares"
    assert {"python", "torch", "lightning", "avsync", "av"} <= set(record["versions"])

    (checkpoint,) = (folder / "checkpoints").glob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["config_yaml"].startswith("# lightning")
    assert run("validate", "--ckpt_path", str(checkpoint)) == 0
    again = json.loads(Path("runs/squares/version_1/results.json").read_text())
    assert again["metrics"] == record["metrics"]
    assert again["global_step"] == 2 and again["ckpt_path"] == str(checkpoint)
    assert "Results at step 2" in capsys.readouterr().out

    # the same weights on the same clips
    assert main(["compare", str(folder), "runs/squares/version_1", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["metrics"]
    assert set(compared) == set(record["metrics"])
    for name, item in compared.items():
        assert item["a"] == pytest.approx(record["metrics"][name]["value"]) and item["n"] == 3
        assert (item["difference"], item["ci95"]) == (0, [0, 0])

    assert run("test", "--experiment", "other") == 0
    assert set(json.loads(Path("runs/other/version_0/results.json").read_text())["metrics"]) == set(record["metrics"])

    assert run("predict", "--ckpt_path", str(checkpoint)) == 0
    videos = sorted(Path("runs/squares/version_2/predictions").glob("*.mp4"))
    printed = capsys.readouterr().out
    assert len(videos) == 6 and all(str(video) in printed for video in videos)
    assert not Path("runs/squares/version_2/results.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__init_args": {"fail_ta": 2}}, "unknown key model.init_args.fail_ta; did you mean fail_at?"),
        ({"trainer__max_stps": 2}, "unknown key trainer.max_stps; did you mean max_steps?"),
        ({"modle": 3}, "unknown key modle; did you mean model?"),
        ({"trainer__max_steps": "two"}, "trainer.max_steps is 'two', but must be int"),
        ({"data__class_path": "SqareClips"}, "data names the class SqareClips, which does not exist"),
    ],
)
def test_wrong_keys_are_named_with_the_fix(capsys, changes, sentence):
    write_config(**changes)
    assert run("fit") == 2
    assert complaint(capsys).startswith(f"error: squares.yaml: {sentence}")
    assert not Path("runs").exists()


def test_missing_files_are_named(capsys):
    assert main(["fit", "--config", "none.yaml"]) == 2
    assert "none.yaml" in complaint(capsys)
    assert run("validate", "--ckpt_path", "gone/last.ckpt") == 2
    assert "'gone/last.ckpt' does not exist" in complaint(capsys)
    Path("cut.ckpt").write_bytes(b"PK\x03\x04 cut off")
    assert run("validate", "--ckpt_path", "cut.ckpt") == 2
    assert "'cut.ckpt' is truncated or no checkpoint" in complaint(capsys)
    torch.save({"weights": torch.zeros(2)}, "other.ckpt")
    assert run("validate", "--ckpt_path", "other.ckpt") == 2
    assert "holds no training checkpoint" in complaint(capsys)
    assert not list(Path.cwd().rglob("results.json"))


def test_training_cannot_go_on_from_weights_alone(capsys):
    write_config(trainer__limit_val_batches=0, trainer__callbacks=["SlimCheckpoint"])
    assert run("fit") == 0
    Path("runs/squares/version_0/checkpoints/slim.ckpt").rename("slim.ckpt")
    capsys.readouterr()
    assert run("fit", "--trainer.max_steps", "4", "--ckpt_path", "slim.ckpt") == 2
    assert "'slim.ckpt' holds weights alone, with which no training can go on" in complaint(capsys)
    assert run("validate", "--ckpt_path", "best") == 2
    assert "ModelCheckpoint" in complaint(capsys)


def test_callbacks_do_not_change_what_a_training_begins_with():
    """A judge draws numbers while it is built; the model draws those that it draws without one."""
    squares = "tests.lightning_modules.command_line.learning_squares"
    loaded = {"class_path": "components.v2a.onset_v2a.OnsetV2A.from_pretrained"}
    loaded["init_args"] = {"folder": str(ROOT / "configs/weights/quickstart_v2a")}
    judges = [
        {"class_path": "callbacks.cyclesync.CycleSyncCallback", "init_args": {"v2a": v2a}}
        for v2a in ({"class_path": "components.v2a.onset_v2a.OnsetV2A"}, loaded)
    ]
    weights = []
    for listed, named in (([], {}), (judges[:1], {}), ([], {"judge": judges[1]})):
        write_config(
            model__class_path=f"{squares}.LearningSquares",
            trainer__callbacks=[f"{squares}.Noted", *listed],
            trainer__limit_val_batches=0,
            callbacks=named,
        )
        assert run("fit") == 0
        weights.append(json.loads(Path("noted.json").read_text())["weights"])
    assert weights[0] == weights[1] == weights[2]
    assert main(["fit", "--config", "squares.yaml", "--seed_everything", "8"]) == 0
    assert json.loads(Path("noted.json").read_text())["weights"] != weights[0]


def test_options_are_not_abbreviated(capsys):
    assert run("fit", "--trainer.max_step", "3") == 2
    assert complaint(capsys) == "error: unknown option --trainer.max_step; did you mean max_steps?"


def test_a_checkpoint_that_does_not_fit_lists_its_keys(capsys):
    model = JumpingSquares()
    state = {"layer.weight": torch.zeros(1, 5), "hits": model.hits} | {f"old.{k}": torch.zeros(1) for k in range(12)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6", "global_step": 0, "epoch": 0}, "a.ckpt")
    assert run("validate", "--ckpt_path", "a.ckpt") == 2
    sentence = complaint(capsys)
    assert "1 missing: layer.bias;" in sentence
    assert "12 unexpected: " in sentence and sentence.count("old.") == 10 and "and 2 more" in sentence
    assert "1 of another shape: layer.weight (file [1, 5], model [1, 3])" in sentence


def test_nan_loss_stops_the_run_without_results(capsys):
    write_config(model__init_args={"bad_at": 1})
    assert run("fit") == 2
    sentence = complaint(capsys)
    assert "loss is nan at step 1 (not finite: train/motion)" in sentence and "learning rate" in sentence
    assert not list(Path.cwd().rglob("results.json"))


def test_a_metric_without_a_value_is_an_error_of_an_evaluation_not_of_a_training(capsys):
    write_config(model__init_args={"silent": True})
    with pytest.warns(RuntimeWarning, match=r"keep cyclesync \(nan over 0 items\), .* at step 0"):
        assert run("validate") == 1
    said = complaint(capsys)
    assert said.startswith("error: validate is not complete: ResultsWriter failed to keep cyclesync (nan")
    with pytest.warns(RuntimeWarning, match=r"keep cyclesync \(nan over .* at step 1"):
        assert run("fit") == 0
    for version in (0, 1):
        record = json.loads(Path(f"runs/squares/version_{version}/results.json").read_text())
        assert record["failed"] and all(entry["value"] is not None for entry in record["metrics"].values())


def test_what_only_watches_does_not_end_a_training_but_is_what_an_evaluation_is_for(capsys):
    report = {"class_path": "SampleReport", "init_args": {"num_clips": 1}}
    blocked = {"class_path": f"{__name__}.NoRoomForVideos"}
    best = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "cyclesync", "mode": "max"}}
    broken = {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": f"{__name__}.DeafAtFirst"}}}
    logger = {"class_path": f"{__name__}.FullDisk", "init_args": {"save_dir": "runs"}}
    write_config(trainer__callbacks=[broken, report, blocked, best], trainer__logger=logger)
    with pytest.warns(RuntimeWarning) as warned:
        assert run("fit") == 0
    said = [str(one.message) for one in warned if "failed to" in str(one.message)]
    assert len(said) == 3, said
    assert said[0].startswith("FullDisk failed to log_metrics at step")
    assert any(
        "CycleSyncCallback failed to judge" in one and "RuntimeError: no ear (test_cli.py line" in one for one in said
    )
    assert any("SampleReport failed to show hammering/a_0 at step 1" in one for one in said)
    folder = Path("runs/squares/version_0")
    record = json.loads((folder / "results.json").read_text())
    assert record["metrics"]["cyclesync_real"]["value"] == pytest.approx(100), "the second validation was whole"
    assert len(record["failed"]) > 3
    assert "in forward" in (folder / "tracebacks.log").read_text() and (folder / "report/index.html").exists()
    (kept,) = (folder / "checkpoints").glob("*.ckpt")
    assert torch.load(kept, weights_only=True)["global_step"] == 2, "weights that were not judged are not the best"
    write_config(trainer__callbacks=[*CONFIG["trainer"]["callbacks"], report, blocked], trainer__logger=False)
    capsys.readouterr()
    with pytest.warns(RuntimeWarning):
        assert run("validate") == 1
    assert "SampleReport failed to show hammering/a_0" in complaint(capsys)
    assert json.loads(Path("runs/squares/version_1/results.json").read_text())["metrics"], "the rest is written"


class DeafAtFirst(MotionV2A):
    """A judge that hears nothing but from the second evaluation on."""

    def forward(self, video, fps, captions=None, generators=None):
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 1:
            raise RuntimeError("no ear")
        return super().forward(video, fps, captions, generators)


class NoRoomForVideos(Callback):
    """Makes a file where the report's videos are to go."""

    def on_validation_start(self, trainer, pl_module):
        media = Path(trainer.log_dir, "report/media")
        media.parent.mkdir(exist_ok=True)
        media.touch()


class FullDisk(CSVLogger):
    """A logger whose disk is full."""

    def log_metrics(self, metrics, step=None):
        raise OSError(28, "No space left on device")


def test_a_crash_keeps_its_traceback_and_leaves_no_results():
    write_config(model__init_args={"fail_at": 1})
    with pytest.raises(OSError, match="the disk is gone"):
        run("fit")
    assert not list(Path.cwd().rglob("results.json"))


def test_results_of_an_earlier_run_do_not_survive_a_failure():
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "here", "version": 0}}
    write_config(trainer__logger=logger)
    assert run("fit") == 0
    assert Path("here/squares/version_0/results.json").exists()
    write_config(trainer__logger=logger, model__init_args={"fail_at": 0})
    with pytest.raises(OSError):
        run("fit")
    assert not Path("here/squares/version_0/results.json").exists()


def test_wrong_trainer_settings_are_bad_input(capsys):
    write_config(trainer__accelerator="cpuu")
    assert run("fit") == 2
    assert "accelerator='cpuu'" in complaint(capsys)


def test_constructors_and_worker_processes_speak_in_one_sentence(capsys):
    callback = {"class_path": "NaNGuard", "init_args": {"every_n_steps": 0}}
    write_config(trainer__callbacks=[callback])
    assert run("fit") == 2
    assert complaint(capsys) == "error: NaNGuard.every_n_steps is 0; it must be at least 1"
    write_config(data={"class_path": f"{__name__}.DamagedClips"})
    assert run("validate") == 2
    assert complaint(capsys) == "error: clips/a.mp4 is cut off after 3 frames; remove it"


class DamagedClips(LightningDataModule):
    """Its worker process meets a damaged file."""

    def val_dataloader(self):
        return torch.utils.data.DataLoader(_Damaged(), num_workers=1)


class _Damaged(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise InputError("clips/a.mp4 is cut off after 3 frames; remove it")


def test_a_monitor_has_the_name_that_the_results_have(capsys):
    def monitored(name):
        checkpoint = {"class_path": "ModelCheckpoint", "init_args": {"monitor": name, "mode": "max"}}
        write_config(trainer__callbacks=[*CONFIG["trainer"]["callbacks"], checkpoint])
        return run("fit")

    assert monitored("val/cyclesync") == 2
    assert complaint(capsys) == (
        "error: trainer.callbacks.2.init_args.monitor names the metric 'val/cyclesync', which is called 'cyclesync' in "
        "the log as in results.json: write cyclesync"
    )
    assert not Path("runs").exists()
    assert monitored("cyclesync") == 0
    assert json.loads(Path("runs/squares/version_0/results.json").read_text())["metrics"]["cyclesync"]


def test_print_config_resolves_short_names(capsys):
    assert run("fit", "--print_config") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    judge, writer = shown["trainer"]["callbacks"]
    assert judge["class_path"] == "callbacks.cyclesync.CycleSyncCallback"
    assert judge["init_args"]["v2a"]["class_path"] == "components.v2a.motion_v2a.MotionV2A"
    assert writer["class_path"] == "callbacks.prediction_writer.PredictionWriter"
    assert shown["trainer"]["default_root_dir"] == "runs"


def test_hyperparameters_of_a_checkpoint_do_not_override_the_configuration():
    assert run("fit") == 0
    (checkpoint,) = Path("runs").rglob("*.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] = {"silent": True}
    torch.save(content, checkpoint)
    assert run("validate", "--ckpt_path", str(checkpoint)) == 0


def python(*args, **kwargs):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs
    )


def heed_interrupts():
    """A shell starts background jobs with SIGINT ignored, and so would everything they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.gate
def test_help_imports_no_model_library():
    code = (
        "import sys; from lightning_modules.__main__ import main; sys.argv = ['avsync', '--help']; status = main(); "
        "sys.argv = ['avsync', 'fit', '--help']; status = status or main(); "
        "heavy = {name.partition('.')[0] for name in sys.modules} & {'transformers', 'diffusers'}; "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    process = python("-c", code)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("usage:") == 2 and "predict" in out and "--trainer.max_steps" in out


def test_a_command_is_needed(capsys):
    assert main([]) == 2
    assert complaint(capsys).startswith("error: no subcommand was given; use avsync fit, validate, test, predict")


# SIGTERM is sent to real runs in tests/lightning_modules/strategies/test_parallel_runs.py, too
@pytest.mark.gate
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_does_not_look_complete_and_can_go_on(sent):
    report = {"class_path": "SampleReport", "init_args": {"num_clips": 1}}
    write_config(trainer__callbacks=[*CONFIG["trainer"]["callbacks"], report], trainer__max_steps=100_000)
    process = python("-m", "lightning_modules", "fit", "--config", "squares.yaml", preexec_fn=heed_interrupts)
    page = Path("runs/squares/version_0/report/index.html")
    deadline = time.monotonic() + 300
    while not page.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(sent)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 75
    assert not list(Path.cwd().rglob("results.json"))
    assert 'class="status stopped"' in page.read_text()
    stopped = Path("runs/squares/version_0/checkpoints/stopped.ckpt")
    step = torch.load(stopped, weights_only=True)["global_step"]
    assert step >= 1 and f"stopped after step {step}; go on with --ckpt_path {stopped}" in said
    assert not list(stopped.parent.glob(".*"))
    write_config(trainer__max_steps=step + 1)
    assert run("fit", "--ckpt_path", str(stopped)) == 0
    assert json.loads(Path("runs/squares/version_1/results.json").read_text())["global_step"] == step + 1


def test_last_goes_on_where_any_run_of_the_experiment_ended(capsys):
    assert run("fit", "--ckpt_path", "last") == 2
    assert complaint(capsys).startswith(
        f"error: ckpt_path is last, but no run in '{Path('runs/squares')}' has left a whole"
    )
    assert not Path("runs").exists()
    assert run("fit") == 0
    write_config(trainer__max_steps=3)
    assert run("fit", "--ckpt_path", "last") == 0
    second = json.loads(Path("runs/squares/version_1/results.json").read_text())
    (first,) = Path("runs/squares/version_0/checkpoints").glob("*.ckpt")
    assert second["ckpt_path"] == str(first) and second["global_step"] == 3
    (newest,) = Path("runs/squares/version_1/checkpoints").glob("*.ckpt")
    assert run("validate", "--ckpt_path", "last") == 0
    assert json.loads(Path("runs/squares/version_2/results.json").read_text())["ckpt_path"] == str(newest)


def test_shipped_checkpoints_are_found_from_any_folder(capsys):
    shipped = "configs/weights/quickstart_syncphony.ckpt"
    assert run("validate", "--ckpt_path", shipped) == 2
    assert f"'{ROOT / shipped}' does not fit the configured model" in complaint(capsys)
