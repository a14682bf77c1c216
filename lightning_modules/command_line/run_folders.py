"""A folder of its own for every run, ``<root>/<experiment>/version_<n>``, and loggers that go by the same names."""

from __future__ import annotations

import importlib
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from components.errors import InputError

UNNAMED = "lightning_logs"
"""What Lightning's loggers call an experiment that nobody has named."""


def experiment_folder(trainer: Namespace, experiment: str) -> Path:
    """Where all runs of an experiment lie: where a logger that keeps files was told to, else where the trainer was.

    Args:
        trainer: the section ``trainer`` of a configuration.
        experiment: the experiment's name.
    """
    for logger in _of_files(trainer):
        return Path(logger.init_args.save_dir) / _named(logger.init_args.name, experiment)
    return Path(trainer.default_root_dir or ".") / experiment


def given_version(trainer: Namespace) -> str | None:
    """The name of the run's folder if a logger that keeps files was given one, else None."""
    for logger in _of_files(trainer):
        if (version := logger.init_args.get("version")) is not None:
            return version if isinstance(version, str) else f"version_{version}"
    return None


def new_run_folder(experiment: Path, version: str | None) -> Path:
    """Makes the folder of a run that begins; of several runs that begin at once each gets another.

    Args:
        experiment: where all runs of the experiment lie.
        version: its name; None counts on from the highest that is there.

    Raises:
        InputError: if it cannot be made.
    """
    try:
        if version is not None:
            (experiment / version).mkdir(parents=True, exist_ok=True)
            check_writable(experiment / version)
            return experiment / version
        experiment.mkdir(parents=True, exist_ok=True)
        names = [path.name.removeprefix("version_") for path in experiment.glob("version_*")]
        number = max((int(name) for name in names if name.isdecimal()), default=-1) + 1
        while True:
            try:
                (experiment / f"version_{number}").mkdir()
            except FileExistsError:  # another run was faster
                number += 1
                continue
            return experiment / f"version_{number}"
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be made in '{experiment}' ({error.strerror}); give another with "
            "--trainer.default_root_dir"
        ) from None


def check_writable(folder: Path) -> None:
    """Tries whether files can be written into a folder, or into the one it will be made in.

    Raises:
        OSError: if not.
    """
    while not folder.exists():
        folder = folder.absolute().parent
    # permissions alone do not tell: file systems may be read-only, and folders of another kind
    with tempfile.TemporaryFile(dir=folder):
        pass


def refuse_unwritable_checkpoints(callbacks: Sequence[Any]) -> None:
    """Looks where the configured callbacks will write checkpoints: hours later would be too late.

    Raises:
        InputError: naming the folder.
    """
    for callback in callbacks:
        arguments = callback.get("init_args") if isinstance(callback, Namespace) else None
        if isinstance(arguments, Namespace) and isinstance(folder := arguments.get("dirpath"), str):
            try:
                check_writable(Path(folder))
            except OSError as error:
                raise InputError(
                    f"{callback.class_path}.dirpath is '{folder}', where nothing can be written ({error.strerror}); "
                    "give another folder or the permission"
                ) from None


def name_loggers(trainer: Namespace, experiment: str, folder: Path) -> None:
    """Gives every logger of the configuration, in place, what it was not given: the names of experiment and run.

    Args:
        trainer: the section ``trainer`` of a configuration.
        experiment: the experiment's name.
        folder: of the run.
    """
    for logger in _listed(trainer.logger):
        names: dict[tuple[str, str | None], str | int] = {
            # the arguments' names, and what Lightning's loggers have there if nothing was given
            ("name", UNNAMED): experiment,
            ("experiment_name", UNNAMED): experiment,
            ("project", None): experiment,
            ("run_name", None): folder.name,
        }
        if _keeps_files(logger):
            names[("version", None)] = version_of(folder)
        else:
            names |= {("name", None): folder.name, ("save_dir", "."): str(folder)}
        taken = inspect.signature(_class_of(logger)).parameters
        for (argument, default), value in names.items():
            if argument in taken and logger.get(f"init_args.{argument}", default) == default:
                logger[f"init_args.{argument}"] = value


def version_of(folder: Path) -> int | str:
    """What Lightning's loggers call a run's folder: a number for ``version_<number>``, which bars show."""
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdecimal() and folder.name != number else folder.name


def _of_files(trainer: Namespace) -> list[Namespace]:
    return [logger for logger in _listed(trainer.logger) if _keeps_files(logger)]


def _keeps_files(logger: Namespace) -> bool:
    """Whether a logger has a folder ``<save_dir>/<name>/<version>`` for each run."""
    kind = _class_of(logger)
    return isinstance(kind, type) and issubclass(kind, TensorBoardLogger | CSVLogger)


def _class_of(logger: Namespace) -> Any:
    module, _, name = str(logger.class_path).rpartition(".")
    return getattr(importlib.import_module(module), name)


def _named(name: str | None, experiment: str) -> str:
    return experiment if name == UNNAMED else name or ""


def _listed(loggers: Any) -> Sequence[Namespace]:
    """The loggers a configuration describes; True, False and None describe none."""
    return [one for one in (loggers if isinstance(loggers, list) else [loggers]) if isinstance(one, Namespace)]
