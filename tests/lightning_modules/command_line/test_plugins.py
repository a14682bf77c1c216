"""Modules in the user's working directory: found without PYTHONPATH, never taken for ours, and named where broken.

The command runs in a process of its own, as the console script that an installation makes and as ``python -m``.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.gate, pytest.mark.long]

ROOT = Path(__file__).parents[3]

MODEL = """
from tests.callbacks.jumping_squares import JumpingSquares


class MyModel(JumpingSquares):
    def on_validation_start(self):
        print("my model validates")
"""

# Sits in the loader's worker process, which finds the module on its own: "spawn" begins with an empty interpreter.
DATA = """
import torch

from tests.callbacks.jumping_squares import SquareClips


class MySet(torch.utils.data.Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class MyClips(SquareClips):
    def __init__(self, num_workers: int = 1):
        super().__init__()
        self.num_workers = num_workers

    def val_dataloader(self):
        batches = MySet(list(super().val_dataloader()))
        context = "spawn" if self.num_workers else None
        return torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=self.num_workers, multiprocessing_context=context
        )
"""

CONFIG = {
    "model": {"class_path": "my_module.MyModel"},
    "data": {"class_path": "my_package.MyClips"},
    "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with plug-ins, and with folders that have the names of ours."""
    place = tmp_path / "work"
    (place / "my_package").mkdir(parents=True)
    (place / "my_module.py").write_text(MODEL)
    (place / "my_package" / "__init__.py").write_text("from my_package.clips import MyClips\n")
    (place / "my_package" / "clips.py").write_text(DATA)
    for name in ("callbacks", "configs", "datamodules", "components"):
        shadow(place, name)
    (place / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    return place


def shadow(place: Path, name: str) -> None:
    (place / name).mkdir()
    (place / name / "__init__.py").write_text(f"raise SystemExit('the user\\'s {name} was imported')\n")


def console_script(folder: Path) -> list[str]:
    """The command as an installation writes it, from what pyproject.toml says of it."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
        "avsync"
    ].partition(":")
    script = folder.parent / "bin" / "avsync"
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        f"import sys\nfrom {module} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return [sys.executable, str(script)]


def run(folder: Path, command: list[str], *args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs in ``folder``; what stands in for the installation comes after ``path`` on the search path."""
    environment = os.environ | {"PYTHONPATH": f"{path}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *args], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


MODULE = [sys.executable, "-m", "lightning_modules"]


def test_the_console_script_finds_plug_ins_and_never_takes_folders_of_the_user_for_ours(folder: Path):
    shadow(folder, "lightning_modules")
    done = run(folder, console_script(folder), "validate", "--config", "run.yaml", path=f".{os.pathsep}")
    assert done.returncode == 0, done.stderr
    assert "my model validates" in done.stdout


def test_so_does_the_module_where_python_puts_the_working_directory_first(folder: Path):
    # a loader worker is started from here as from any process
    done = run(folder, MODULE, "validate", "--config", "run.yaml", "--data.num_workers", "0")
    assert done.returncode == 0, done.stderr
    assert "my model validates" in done.stdout


def test_so_do_the_processes_of_torchrun(folder: Path):
    # clips without loader workers, which are started from here as from any process
    clips = {"class_path": "tests.callbacks.jumping_squares.SquareClips"}
    config = {**CONFIG, "data": clips, "trainer": {**CONFIG["trainer"], "devices": 2, "strategy": "ddp"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    done = run(folder, [*launch, "lightning_modules"], "validate", "--config", "run.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("my model validates") == 2


def test_a_package_of_ours_is_not_looked_for_in_the_working_directory(folder: Path):
    done = run(folder, MODULE, "validate", "--config", "run.yaml", "--model", "callbacks.MyModel")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: command line: model names callbacks.MyModel, but callbacks is a package of avsync, and "
        f"'{folder / 'callbacks'}' is not searched; rename yours"
    )
