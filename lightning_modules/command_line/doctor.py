"""``avsync doctor``: looks at an experiment's data before anything trains on it. No model is built."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError
from lightning_modules.command_line.startup import import_own_modules, import_torchmetrics, keep_console_clear

_USAGE = "avsync doctor [--out DIR] [--workers N] OPTIONS OF avsync fit"


def main(args: Sequence[str]) -> int:
    """Looks at the data that ``args`` describe, writes what it found and prints the counts.

    Returns:
        0, or 1 if a training would stop, train on nothing or without a modality that it needs.

    Raises:
        InputError: if the data cannot be listed at all, as ``fit`` would say.
    """
    parser = _Parser(
        prog="avsync doctor",
        usage=_USAGE,
        description="Looks at start, middle and end of every recording that a training would use: what is in it, and "
        "what would be used or dropped and why. Takes the options of avsync fit (--config, --data ...); of these, what "
        "belongs to the data and the clips is built, the model is not.",
        epilog="Writes doctor.json, doctor.csv and index.html. Exits with 1 if the training would stop, train on "
        "nothing or without a modality that it needs.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (default: doctor/ in the experiment's folder)")
    parser.add_argument("--workers", metavar="N", type=int, default=_cores(), help="processes (default: all cores)")
    chosen, options = parser.parse_known_args(args)
    if chosen.workers < 0:
        raise InputError(f"--workers is {chosen.workers}; give 0 (this process alone) or more")
    if not options:
        raise InputError(f"nothing says which data to look at; use {_USAGE}, such as --config configs/quickstart.yaml")
    import_torchmetrics()
    keep_console_clear()
    import_own_modules()
    # slow: what these import is not small
    from lightning_modules.command_line.doctor_diagnosis import diagnose
    from lightning_modules.command_line.doctor_files import show, write
    from lightning_modules.command_line.experiment_data import experiment_data

    data = experiment_data(options)
    out = Path(chosen.out) if chosen.out is not None else data.folder / "doctor"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is '{out}', which is a file; give a folder")
    diagnosis = diagnose(data, chosen.workers)
    write(diagnosis, out)
    show(diagnosis, out)
    return 1 if diagnosis.problems else 0


def _cores() -> int:
    """Cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
