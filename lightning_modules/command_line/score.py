"""``avsync score``: judges generated files of any origin with the callbacks that judge models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError
from lightning_modules.command_line.startup import import_own_modules, import_torchmetrics, keep_console_clear

_USAGE = "avsync score --generated DIR [--reference DIR] [--variants.NAME DIR] OPTIONS OF avsync test"
_VARIANTS = "--variants."


def main(args: Sequence[str]) -> int:
    """Judges the files that ``args`` name and returns the exit status of ``avsync test``.

    Raises:
        InputError: if a folder does not exist, or an argument is missing.
    """
    variants, rest = _variants(args)
    parser = _Parser(
        prog="avsync score",
        usage=_USAGE,
        description="Scores a folder or manifest of generated files, matched by name with real ones, with the "
        "callbacks of the configuration files. Without --reference and without data in these, metrics that compare "
        "with real clips are left out.",
        epilog="Writes what avsync test writes: results.json, clips.jsonl, a report page, the configuration. "
        "--model.sound reference judges pictures by the real clips' sound.",
        allow_abbrev=False,
    )
    parser.add_argument("--generated", metavar="DIR", required=True, help="the generated files, or a manifest of them")
    parser.add_argument("--reference", metavar="DIR", help="real clips: a folder or a manifest; or a list of prompts")
    chosen, options = parser.parse_known_args(rest)
    for option, folder in (
        ("--generated", chosen.generated),
        ("--reference", chosen.reference),
        *((f"{_VARIANTS}{name}", folder) for name, folder in variants.items()),
    ):
        if folder is not None and not Path(folder).exists():
            raise InputError(f"{option}: '{folder}' does not exist; give an existing folder or manifest")
    import_torchmetrics()
    keep_console_clear()
    import_own_modules()
    # slow: what it imports is not small
    from lightning_modules.command_line.scoring import score

    return score(options, chosen.generated, chosen.reference, variants)


def _variants(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--variants.NAME DIR`` by name, and all other arguments."""
    found: dict[str, str] = {}
    rest: list[str] = []
    given = iter(args)
    for argument in given:
        if not argument.startswith(_VARIANTS):
            rest.append(argument)
            continue
        name, joined, folder = argument.removeprefix(_VARIANTS).partition("=")
        folder = folder if joined else next(given, "")
        if not folder or folder.startswith("--"):
            raise InputError(f"{_VARIANTS}{name} names no folder; use {_USAGE}")
        if name in found:
            raise InputError(f"{_VARIANTS}{name} is given twice; give every variant another name")
        found[name] = folder
    return found, rest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
