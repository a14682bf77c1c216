"""``avsync replay``: runs a step again whose loss or gradient was not finite, and says where it goes wrong."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError
from lightning_modules.command_line.startup import import_torchmetrics

REPRODUCED_STATUS = 3
"""Exit status where the loss or a gradient is not finite this time either."""
_USAGE = "avsync replay FILE [options of avsync fit]"


def main(args: Sequence[str]) -> int:
    """Replays the file that ``args`` name and prints what is found.

    Returns:
        `REPRODUCED_STATUS`, or 0 if everything is finite this time.

    Raises:
        InputError: if the file is damaged or holds code, or its experiment cannot be built here.
    """
    parser = _Parser(
        prog="avsync replay",
        usage=_USAGE,
        description="Runs one step of a training again, in one process and under anomaly detection.",
        epilog=f"Exits with {REPRODUCED_STATUS} if loss or gradients are not finite this time either, with 0 if they "
        "are. The configuration in the file is built as any configuration is, so replay files of people you trust; "
        "options of avsync fit after FILE, such as --trainer.accelerator cpu, change it.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="replay/step<n>_rank<r>.pt in the folder of a run")
    chosen, options = parser.parse_known_args(args)
    if not Path(chosen.file).is_file():
        raise InputError(f"replay file '{chosen.file}' does not exist; give one that a training has written")
    import_torchmetrics()
    from lightning_modules.command_line.replayed_step import replayed  # slow: what it imports is not small

    found = replayed(Path(chosen.file), options)
    reproduced = bool(found.bad) or not math.isfinite(found.loss)
    lines = [f"in training: {found.told}", *(f"clip {clip}" for clip in found.clips), f"loss: {found.loss:.6g}"]
    lines.append(f"gradients that are not finite: {len(found.bad)} of {found.num_gradients}")
    lines += [f"    {name}" for name in found.bad]
    if found.operation is not None:
        lines.append(f"anomaly detection: {found.operation}")
    elif reproduced:
        lines.append("anomaly detection names no operation: it looks for nan alone, not for inf")
    else:
        lines.append("everything is finite this time; was it the same device and precision?")
    sys.stdout.write("\n".join(lines) + "\n")
    return REPRODUCED_STATUS if reproduced else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
