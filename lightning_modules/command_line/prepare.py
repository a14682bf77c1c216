"""``avsync prepare``: encodes an experiment's training clips once, so that ``fit`` loads neither VAE nor encoders."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError
from lightning_modules.command_line.startup import import_torchmetrics, keep_console_clear

_USAGE = "avsync prepare --config EXPERIMENT.yaml --out CACHE [--offsets K] [options of avsync fit]"


def main(args: Sequence[str]) -> int:
    """Encodes this process's share of the clips.

    Returns:
        0.

    Raises:
        InputError: if the experiment, its clips or the folder cannot be used.
    """
    chosen, options = parsed(args)
    import_torchmetrics()
    keep_console_clear()
    from lightning_modules.command_line.preparing import prepare  # slow: what it imports is not small

    whole = prepare(
        options, Path(chosen.out), chosen.offsets, chosen.dtype, chosen.clips_per_shard, chosen.device or _device()
    )
    if whole:
        sys.stdout.write(f"{chosen.out} is whole: avsync fit --data.latents {chosen.out} trains on it\n")
    else:
        sys.stdout.write(f"this process's share of {chosen.out} is done; others are at work on theirs\n")
    return 0


def parsed(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the command itself is told, and the experiment as ``avsync fit`` takes it.

    Raises:
        InputError: if an argument is missing or wrong.
    """
    parser = _Parser(
        prog="avsync prepare",
        usage=_USAGE,
        description="Encodes the training clips of an experiment once: avsync fit --data.latents CACHE trains on them.",
        epilog="Run it again after it was stopped, with the same options: finished shards stay. Several processes "
        "(torchrun, srun) share the shards. Only codecs and encoders are built, never the transformer.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, metavar="CACHE", help="a new folder, or one to go on in")
    text = "clips of each recording, cut at places that its name decides (default: data.offsets, or 4)"
    parser.add_argument("--offsets", type=_positive, metavar="K", help=text)
    text = "what float32 latents and features are kept in"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=text)
    text = "clips in a file, which is written or lost as a whole (default: 32)"
    parser.add_argument("--clips_per_shard", type=_positive, default=32, metavar="N", help=text)
    parser.add_argument("--device", help="where to encode (default: cuda if there is one; a card for each process)")
    return parser.parse_known_args(args)


def _device() -> str:
    import torch

    card = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    return f"cuda:{card}" if torch.cuda.is_available() else "cpu"


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
