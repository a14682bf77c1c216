"""Commands of ``avsync`` beside those that run an experiment.

Imports the standard library alone: which command is meant is asked before anything slow is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from components.errors import InputError

EXTRA_COMMANDS = {
    "prepare": ("lightning_modules.command_line.prepare", "encodes an experiment's training clips once, for fit"),
    "replay": ("lightning_modules.command_line.replay", "runs a step that NaNGuard has kept under anomaly detection"),
    "doctor": ("lightning_modules.command_line.doctor", "looks at an experiment's data before it trains"),
    "score": (
        "lightning_modules.command_line.score",
        "judges any folder of generated files, with or without real ones",
    ),
    "table": ("lightning_modules.command_line.table", "rows of evaluated runs beside those of the papers"),
    "pairwise": ("lightning_modules.command_line.pairwise", "two systems side by side for people to choose, and votes"),
    "estimate": ("lightning_modules.estimates.command", "counts the memory, hours and storage of an experiment"),
    "compare": ("lightning_modules.command_line.compare", "what differs between two evaluated runs, with intervals"),
}
"""Name -> the module whose ``main`` takes the arguments and returns the exit status, and what the command does."""


def extra_help() -> str:
    """What ``avsync --help`` says of these commands."""
    return "also: " + ", ".join(f"avsync {name} ({text})" for name, (_, text) in EXTRA_COMMANDS.items())


def run_extra(args: Sequence[str]) -> int | None:
    """Runs the command that ``args`` begin with and returns its exit status, 2 for bad input; None if it is no such."""
    if not args or args[0] not in EXTRA_COMMANDS:
        return None
    module, _ = EXTRA_COMMANDS[args[0]]
    run: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    try:
        return run(args[1:])
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except SystemExit as stop:  # argparse, after it has helped
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
