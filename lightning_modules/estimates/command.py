"""``avsync estimate``: what an experiment would take, counted on the meta device. No weights are loaded."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from components.errors import InputError
from lightning_modules.command_line.startup import import_torchmetrics, keep_console_clear

_USAGE = "avsync estimate --config EXPERIMENT.yaml [--gpus 1,8,64] [options of avsync fit]"

N = TypeVar("N", int, float)


def main(args: Sequence[str]) -> int:
    """Counts the experiment that ``args`` describe and prints tables.

    Returns:
        0.

    Raises:
        InputError: if an option or the experiment cannot be used.
    """
    chosen, options = parsed(args)
    if not options:
        raise InputError(f"nothing says which experiment; use {_USAGE}")
    out = None if chosen.json is None else Path(chosen.json)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--json is '{out}', where no file can be written; give a file in a folder that exists")
    import_torchmetrics()
    keep_console_clear()
    # slow: what these import is not small
    from components.weights.whole_file import whole_file
    from lightning_modules.estimates.estimate import Question, estimate
    from lightning_modules.estimates.experiment import meta_experiment
    from lightning_modules.estimates.tables import tables

    question = Question(
        gpus=chosen.gpus,
        memory_gb=chosen.memory,
        mfu=chosen.mfu,
        peak_tflops=chosen.peak_tflops,
        steps=chosen.steps,
        clips_per_step=chosen.clips_per_step,
        clips=chosen.clips,
        video_mbit=chosen.video_mbit,
    )
    found = estimate(meta_experiment(options), question)
    sys.stdout.write("\n\n".join(tables(found)) + "\n")
    if out is not None:
        with whole_file(out) as stream:
            stream.write((json.dumps(found.as_json(), indent=2, allow_nan=False) + "\n").encode())
    return 0


def parsed(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the command itself is told, and the experiment as ``avsync fit`` takes it.

    Raises:
        InputError: if an argument is wrong.
    """
    parser = _Parser(
        prog="avsync estimate",
        usage=_USAGE,
        description="Counts memory by part, FLOPs, hours, storage of checkpoints and clips and the network's traffic "
        "of an experiment, on the meta device: weights need not be there, and no GPU is needed.",
        epilog="Hours follow from FLOPs, the peak rate and a stated MFU; they are no measurement.",
        allow_abbrev=False,
    )
    whole, real = _listed(_whole, "numbers from 1 on"), _listed(_real, "numbers above 0")
    parser.add_argument("--gpus", type=whole, default=[1, 8, 64, 512], metavar="N,N", help="(default: 1,8,64,512)")
    text = "GB of a GPU that the experiment is to fit (default: 24,48,80,141)"
    parser.add_argument("--memory", type=real, default=[24.0, 48.0, 80.0, 141.0], metavar="GB,GB", help=text)
    text = "share of the peak rate that the transformer's FLOPs reach (default: 0.4,0.33)"
    parser.add_argument("--mfu", type=_listed(_share, "shares from 0 to 1"), default=[0.4, 0.33], help=text)
    text = "peak rate of a GPU in TFLOP/s, dense products in bfloat16 (default: 989, an H100 or H200)"
    parser.add_argument("--peak-tflops", type=_one(_real, "a number above 0"), default=989.0, help=text)
    one = _one(_whole, "a number from 1 on")
    text = "clips of all GPUs in a step; the accumulation follows (default: as the configuration has it)"
    parser.add_argument("--clips-per-step", type=one, metavar="N", help=text)
    parser.add_argument("--steps", type=one, metavar="N", help="optimizer steps (default: trainer.max_steps)")
    parser.add_argument("--clips", type=one, metavar="N", help="clips in the data set, for their storage")
    text = "bit rate of recordings in Mbit/s, for their storage (default: 5)"
    parser.add_argument("--video-mbit", type=_one(_real, "a number above 0"), default=5.0, help=text)
    parser.add_argument("--json", metavar="FILE", help="write everything there as well, in bytes, FLOPs and seconds")
    return parser.parse_known_args(args)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _real(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _share(text: str) -> float:
    value = _real(text)
    if value > 1:
        raise ValueError
    return value


def _one(read: Callable[[str], N], what: str) -> Callable[[str], N]:
    def convert(text: str) -> N:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return convert


def _listed(read: Callable[[str], N], what: str) -> Callable[[str], list[N]]:
    def convert(text: str) -> list[N]:
        try:
            return [read(word) for word in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {what}, such as 1,8") from None

    return convert


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
