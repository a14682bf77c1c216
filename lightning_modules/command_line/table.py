"""``avsync table``: rows of evaluated runs beside those of a paper, for a text.

Imports neither torch nor Lightning: files are read and a table is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from components.errors import InputError
from lightning_modules.command_line.paper_tables import own_row, paper_table, read_entries
from lightning_modules.command_line.table_text import latex, markdown

_GENERATED = "generated"


def main(args: Sequence[str]) -> int:
    """Prints the table that ``args`` ask for.

    Raises:
        InputError: if a run cannot be read or has nothing for the table, or there is no such table.
    """
    parser = _Parser(
        prog="avsync table", description="Prints rows of runs beside those of a paper.", allow_abbrev=False
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, or its results.json")
    parser.add_argument("--papers", required=True, help="whose table: harmony or syncphony")
    parser.add_argument("--set", help="of which data or subset (default: the paper's first)")
    parser.add_argument("--format", choices=("markdown", "latex"), default="markdown", help="default: markdown")
    text = "what the rows are called, one for each run (default: the runs' paths)"
    parser.add_argument("--names", nargs="+", metavar="NAME", help=text)
    text = f"a row for each of these kinds of video: {_GENERATED} (default), a variant, real, chance"
    parser.add_argument("--kinds", nargs="+", metavar="KIND", default=[_GENERATED], help=text)
    chosen = parser.parse_args(args)
    names = chosen.names or [run.rstrip("/") for run in chosen.runs]
    if len(names) != len(chosen.runs):
        raise InputError(f"--names has {len(names)} names for {len(chosen.runs)} runs; give one for each")
    table = paper_table(chosen.papers, chosen.set)
    rows = []
    for name, run in zip(names, chosen.runs, strict=True):
        entries = read_entries(Path(run))
        for kind in chosen.kinds:
            own = kind == _GENERATED
            label = name if own and len(chosen.kinds) == 1 else f"{name}, {kind}"
            rows.append(own_row(label, entries, table, None if own else kind))
    sys.stdout.write(markdown(table, rows) if chosen.format == "markdown" else latex(table, rows))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use avsync table RUN [RUN ...] --papers harmony|syncphony")
