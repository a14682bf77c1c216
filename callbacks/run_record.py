"""What identifies a run: its folder, its configuration, its seed and the versions it ran with."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch import Trainer

CONFIG_FILE = "config.yaml"
_PACKAGES = ("avsync", "torch", "torchaudio", "lightning", "torchmetrics", "diffusers", "transformers", "av")


def run_folder(trainer: Trainer) -> Path | None:
    """The run folder, or None where the trainer writes nothing (``fast_dev_run``). Every rank has to call it."""
    # collective: Lightning broadcasts the folder from rank 0
    folder = trainer.log_dir
    return None if folder is None or trainer.fast_dev_run else Path(folder)  # type: ignore[attr-defined]


def config_text(folder: Path) -> str | None:
    """The configuration saved in a run folder, or None if the run was not started from one."""
    file = folder / CONFIG_FILE
    return file.read_text() if file.is_file() else None


def config_sha256(folder: Path) -> str | None:
    """SHA-256 of the saved configuration's bytes, or None if there is none."""
    file = folder / CONFIG_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def seed() -> int | None:
    """What ``seed_everything`` was given, or None if it was not called."""
    value = os.environ.get("PL_GLOBAL_SEED")
    return None if value is None else int(value)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that is on the path without being installed
        return "not installed"
