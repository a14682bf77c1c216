"""``avsync pairwise``: a page on which people choose between two systems, and what their votes say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError

_USAGE = "avsync pairwise A B --out DIR, or avsync pairwise --votes FILE [FILE ...]"


def main(args: Sequence[str]) -> int:
    """Makes the page, or counts votes, as ``args`` say.

    Raises:
        InputError: if folders or files cannot be used.
    """
    parser = _Parser(
        prog="avsync pairwise",
        usage=_USAGE,
        description="Puts the clips of two systems side by side on one page that needs no network, left and right "
        "shuffled, with three questions for each pair; votes are saved to a file in the browser. With --votes it says "
        "from such files which system is preferred.",
        allow_abbrev=False,
    )
    text = "two runs that kept or predicted clips, or two folders of videos whose names match"
    parser.add_argument("systems", metavar="RUN_OR_FOLDER", nargs="*", help=text)
    parser.add_argument("--out", metavar="DIR", help="a new folder for the page and its media")
    text = "what the systems are called in the votes; the page does not show it (default: their paths)"
    parser.add_argument("--names", nargs=2, metavar="NAME", help=text)
    text = "at most so many pairs, drawn by the seed (default: all)"
    parser.add_argument("--max_pairs", type=_positive, metavar="N", help=text)
    text = "decides the order of the pairs and which system is on the left (default: 0)"
    parser.add_argument("--seed", type=int, default=0, help=text)
    parser.add_argument("--votes", nargs="+", metavar="FILE", help="files of votes that the page has saved")
    chosen = parser.parse_args(args)
    if chosen.votes is not None:
        if chosen.systems or chosen.out or chosen.names or chosen.max_pairs:
            raise InputError(f"--votes counts votes and makes no page; use {_USAGE}")
        from lightning_modules.command_line.pairwise_votes import count_votes  # the page needs other modules

        count_votes([Path(file) for file in chosen.votes])
        return 0
    for system in chosen.systems:
        if not Path(system).exists():
            raise InputError(f"'{system}' does not exist; give a run or a folder of videos")
    if len(chosen.systems) != 2 or chosen.out is None:
        raise InputError(f"two systems and --out are needed; use {_USAGE}")
    from lightning_modules.command_line.pairwise_study import make_study  # slow: it reads and writes media

    make_study(chosen.systems, chosen.names or chosen.systems, Path(chosen.out), chosen.seed, chosen.max_pairs)
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use {_USAGE}")
