"""Runs the rows in order, within the time there is, and writes each down when it is done.

::

    python -m benchmarks.gpu --minutes 8 --out DIR
    python -m benchmarks.gpu --out DIR --only flex_attention harmony_step_480p
    python -m benchmarks.gpu --list

``DIR/results.json`` has everything, ``DIR/results.md`` a table. Rows run in a process of their own with a bound on
their time; one that fails is written down with its traceback and the others go on. On a machine without CUDA the same
command rehearses all rows at toy size and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

from benchmarks.gpu.order import ROWS
from benchmarks.gpu.results import JSON_FILE, REHEARSAL, TABLE_FILE, Results
from benchmarks.gpu.rows import Place, Row
from benchmarks.gpu.worker import Worker
from components.errors import InputError

FOLDER_VARIABLES = {
    "TMPDIR": "tmp",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "TORCH_HOME": "torch",
    "HF_HOME": "huggingface",
    "XDG_CACHE_HOME": "cache",
}
"""Where libraries put files, by environment variable: each a folder below ``DIR/scratch``."""


def run_rows(rows: Sequence[Row], place: Place, results: Results, minutes: float) -> None:
    """Runs the rows that fit into ``minutes``; the results are written after each.

    Args:
        rows: in order.
        place: where.
        results: takes what they find.
        minutes: from now on.
    """
    deadline = time.monotonic() + 60 * minutes
    worker = Worker(place)
    try:
        for row in rows:
            run_row(row, worker, results, deadline)
        worker.finish()
    finally:
        worker.stop()


def run_row(row: Row, worker: Worker, results: Results, deadline: float) -> None:
    """Runs one row, or says why not."""
    missing = [name for name in row.needs if importlib.util.find_spec(name) is None]
    expected_s = 0.0 if worker.place.is_rehearsal else row.expected_s
    if not missing and time.monotonic() + expected_s < deadline:
        try:
            worker.start()
        except RuntimeError as error:
            record = results.begin(row.name, row.about)
            record |= {"status": "crashed", "reason": str(error)}
            _close(row, record, results)
            return
        results.machine = worker.facts
    record = results.begin(row.name, row.about)
    left_s = deadline - time.monotonic()
    if missing:
        record |= {"status": "left out", "reason": f"needs {', '.join(missing)}"}
    elif left_s <= expected_s:
        record |= {"status": "left out", "reason": "no time"}
    else:

        def tell(kind: str, entry: dict[str, object]) -> None:
            record[kind] |= entry
            results.write()

        outcome = worker.run(row, min(row.bound_s, left_s), tell)
        record |= {"status": outcome.status, "seconds": round(outcome.seconds, 2)}
        record |= {key: text for key in ("reason", "traceback") if (text := getattr(outcome, key))}
    _close(row, record, results)


def _close(row: Row, record: dict[str, object], results: Results) -> None:
    results.write()
    seconds = f"{record['seconds']:.1f} s" if "seconds" in record else ""
    print(f"{row.name}: {record['status']} {seconds} {record.get('reason', '')}".rstrip(), flush=True)


def keep_files_below(folder: Path) -> None:
    """Whatever libraries write from here on, in this process and in those it starts, goes below ``folder``."""
    for variable, name in FOLDER_VARIABLES.items():
        path = folder / "scratch" / name
        path.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(path)
    os.environ["HF_HUB_OFFLINE"] = "1"


def chosen(names: Sequence[str] | None) -> list[Row]:
    """The rows of these names in the order of the list; all if there are none.

    Raises:
        InputError: for an unknown name.
    """
    known = [row.name for row in ROWS]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(f"--only names {unknown[0]!r}, which is no row; --list prints the names")
    return [row for row in ROWS if not names or row.name in names]


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns 1 if a row failed, 2 for wrong options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all rows; what does not fit is left out")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder of the results")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME", help="these rows alone, in place of earlier")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and end")
    args = parser.parse_args(argv)
    if args.list:
        for row in ROWS:
            print(f"{row.name:28} {row.about}")
        return 0
    if args.out is None:
        parser.error("--out DIR is missing")
    folder = args.out.resolve()
    place = Place("cuda:0" if torch.cuda.is_available() else "cpu", folder)
    try:
        rows = chosen(args.only)
        folder.mkdir(parents=True, exist_ok=True)
        results = Results(folder, [row.name for row in ROWS], place.is_rehearsal)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    keep_files_below(folder)
    signal.signal(signal.SIGTERM, _stop)
    if place.is_rehearsal:
        print(f"{REHEARSAL}: toy sizes, nothing here says anything about a card", flush=True)
    run_rows(rows, place, results, args.minutes)
    print(f"\n{results.table()}\n{folder / TABLE_FILE}, {folder / JSON_FILE}")
    ran = [results.rows[row.name]["status"] for row in rows]
    return int(any(status not in ("passed", "left out") for status in ran))


if __name__ == "__main__":
    sys.exit(main())
