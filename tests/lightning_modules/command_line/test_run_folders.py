"""Whatever logs a run, and if nothing does: a folder of its own, the same names, all hyper-parameters."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers.logger import Logger

from components.errors import InputError
from lightning_modules.command_line.cli import main
from lightning_modules.command_line.run_folders import new_run_folder

SQUARES = "tests.callbacks.jumping_squares"
HERE = __name__


class Tracker(Logger):
    """A tracker with the arguments of Lightning's WandbLogger, which keeps what it was told on the disk."""

    def __init__(self, name: str | None = None, save_dir: str = ".", project: str | None = None):
        super().__init__()
        self.told = {"name": name, "save_dir": save_dir, "project": project}

    # what WandbLogger answers before its service has named the run
    name: ClassVar[Any] = "anything"
    version: ClassVar[Any] = "1x2y3z"
    save_dir: ClassVar[Any] = "."
    experiment: ClassVar[Any] = None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        Path(self.told["save_dir"], "tracked.json").write_text(json.dumps({"told": self.told, "params": params}))

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass


class TracksRuns(Logger):
    """A tracker with the names MLflow's logger has."""

    told: ClassVar[dict[str, Any]] = {}
    name: ClassVar[Any] = None
    version: ClassVar[Any] = None
    experiment: ClassVar[Any] = None

    def __init__(self, experiment_name: str = "lightning_logs", run_name: str | None = None):
        super().__init__()
        TracksRuns.told = {"experiment_name": experiment_name, "run_name": run_name}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        TracksRuns.told["params"] = params

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_config(logger: Any, name: str = "squares.yaml", **trainer: Any) -> None:
    content = {
        "seed_everything": 7,
        "model": {"class_path": f"{SQUARES}.JumpingSquares"},
        "data": {"class_path": f"{SQUARES}.SquareClips"},
        "trainer": {
            "max_steps": 1,
            "val_check_interval": 1,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": logger,
        }
        | trainer,
        "callbacks": {
            "cyclesync": {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}},
            "checkpoint": {"class_path": "ModelCheckpoint", "init_args": {"save_last": "link"}},
            "slim": {"class_path": "SlimCheckpoint"},
        },
    }
    Path(name).write_text(yaml.safe_dump(content))


CSV = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}}
TENSORBOARD = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs"}}


@pytest.mark.parametrize(
    "logger",
    [
        False,
        None,
        CSV,
        [TENSORBOARD, CSV],
        {"class_path": f"{HERE}.Tracker"},
        [{"class_path": f"{HERE}.TracksRuns"}, CSV],
    ],
    ids=["none", "default", "csv", "two", "tracker", "tracker and csv"],
)
def test_every_run_has_a_folder_of_its_own(logger: Any):
    write_config(logger)
    for number in (0, 1):
        assert main(["fit", "--config", "squares.yaml", "--experiment", "first"]) == 0
        folder = Path(f"runs/first/version_{number}")
        kept = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in (".json", ".ckpt")}
        assert {"results.json", "checkpoints/last.ckpt", "checkpoints/slim.ckpt"} <= kept
        # the link names the one whole file
        assert (folder / "checkpoints/last.ckpt").resolve().name in {Path(file).name for file in kept} - {"last.ckpt"}
        assert yaml.safe_load((folder / "config.yaml").read_text())["experiment"] == "first"
    assert {path.name for path in Path("runs").iterdir()} == {"first"}
    # nothing lies beside: the run's folder is all that a run leaves
    assert {path.name for path in Path().iterdir()} == {"runs", "squares.yaml"}


def test_trackers_are_told_the_names_and_every_setting():
    write_config([{"class_path": f"{HERE}.Tracker"}, {"class_path": f"{HERE}.TracksRuns"}, CSV])
    assert main(["fit", "--config", "squares.yaml", "--experiment", "named"]) == 0
    tracked = json.loads(Path("runs/named/version_0/tracked.json").read_text())
    assert tracked["told"] == {"name": "version_0", "save_dir": "runs/named/version_0", "project": "named"}
    assert {name: TracksRuns.told[name] for name in ("experiment_name", "run_name")} == {
        "experiment_name": "named",
        "run_name": "version_0",
    }
    hparams = yaml.safe_load(Path("runs/named/version_0/hparams.yaml").read_text())
    for params in (tracked["params"], TracksRuns.told["params"], hparams):
        assert params["model"]["class_path"] == f"{SQUARES}.JumpingSquares" and params["trainer"]["max_steps"] == 1
    assert Path("runs/named/version_0/metrics.csv").read_text().startswith("cyclesync,")
    # what is saved is what was given: the same file starts another run, not this one again
    saved = yaml.safe_load(Path("runs/named/version_0/config.yaml").read_text())
    assert saved["trainer"]["logger"][2]["init_args"]["version"] is None
    assert main(["fit", "--config", "runs/named/version_0/config.yaml"]) == 0
    assert Path("runs/named/version_1/results.json").exists()


def test_names_that_were_given_stay_and_last_is_found_there():
    given = {"save_dir": "elsewhere", "name": "mine", "version": 7}
    write_config({"class_path": "CSVLogger", "init_args": given})
    assert main(["fit", "--config", "squares.yaml"]) == 0
    assert Path("elsewhere/mine/version_7/results.json").exists() and not Path("runs").exists()
    write_config({"class_path": "CSVLogger", "init_args": given | {"version": None}}, max_steps=2)
    assert main(["fit", "--config", "squares.yaml", "--ckpt_path", "last"]) == 0
    assert "step=2" in Path("elsewhere/mine/version_8/checkpoints/last.ckpt").resolve().name


def test_a_run_that_fails_while_it_is_built_leaves_no_folder(capsys):
    write_config(False, callbacks=[{"class_path": "NaNGuard", "init_args": {"every_n_steps": 0}}])
    assert main(["fit", "--config", "squares.yaml"]) == 2
    assert "NaNGuard.every_n_steps" in capsys.readouterr().err
    assert not list(Path("runs/squares").iterdir())
    write_config(None, fast_dev_run=True)
    assert main(["fit", "--config", "squares.yaml"]) == 0
    assert not list(Path("runs/squares").iterdir())


def test_runs_that_begin_at_once_get_different_folders(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path / "many", None), range(64)))
    assert {folder.name for folder in folders} == {f"version_{number}" for number in range(64)}
    (tmp_path / "many/version_70_copy").mkdir()
    assert new_run_folder(tmp_path / "many", None).name == "version_64"


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"'file/x' .*--trainer\.default_root_dir"):
        new_run_folder(Path("file/x"), None)


def test_a_list_of_callbacks_adds_to_those_with_names():
    write_config(False)
    Path("mine.yaml").write_text("trainer: {callbacks: [SampleReport]}")
    assert main(["fit", "--config", "squares.yaml", "--config", "mine.yaml", "--experiment", "both"]) == 0
    folder = Path("runs/both/version_0")
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    assert "cyclesync" in metrics and (folder / "checkpoints/slim.ckpt").exists()
    assert (folder / "report/index.html").exists()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where not even root can write")
def test_a_folder_that_is_there_but_takes_no_files_is_refused():
    with pytest.raises(InputError, match=r"the run's folder cannot be made in '/sys' \("):
        new_run_folder(Path("/sys"), "kernel")
