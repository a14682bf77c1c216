"""What ``avsync doctor`` leaves: a JSON file, a table, a page, and the counts on the terminal."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from components.errors import InputError
from components.weights.whole_file import whole_file
from datamodules.reading.overview import duration_in_words
from lightning_modules.command_line.doctor_diagnosis import Diagnosis, Finding
from lightning_modules.command_line.doctor_page import page

_MAX_LISTED = 10


def write(diagnosis: Diagnosis, folder: Path) -> None:
    """Writes ``doctor.json``, ``doctor.csv`` and ``index.html``, each whole or not at all.

    Raises:
        InputError: if the folder cannot be written to.
    """
    rows = [row_of(finding) for finding in diagnosis.findings]
    record = {
        "experiment": diagnosis.experiment,
        "data": diagnosis.data,
        "clip": asdict(diagnosis.clip),
        "problems": diagnosis.problems,
        "splits": {split: asdict(counts) for split, counts in diagnosis.counts.items()},
        "recordings": rows,
    }
    table = io.StringIO(newline="")
    out = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    out.writeheader()
    out.writerows({name: "; ".join(v) if isinstance(v, tuple | list) else v for name, v in row.items()} for row in rows)
    contents = {
        "doctor.json": json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "doctor.csv": table.getvalue(),
        "index.html": page(diagnosis),
    }
    try:
        for name, content in contents.items():
            with whole_file(folder / name) as stream:
                stream.write(content.encode())
    except OSError as error:
        raise InputError(
            f"--out is '{folder}', where nothing can be written ({error.strerror}); give another"
        ) from None


def row_of(finding: Finding) -> dict[str, object]:
    """A recording as the files have it, JSON-serialisable."""
    record, seen, verdict = finding.record, asdict(finding.seen), finding.verdict
    del seen["thumbnails"]
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in seen.items()}
    return {
        "split": finding.split,
        "id": record.id,
        "file": str(record.path),
        "used": finding.is_used,
        "fault": verdict.fault,
        "reason": verdict.reason,
        "remarks": list(finding.remarks),
        "usable_s": round(verdict.usable_s, 3),
        "mute": verdict.is_mute,
        **rounded,
        "caption": record.caption,
        "transcript": record.transcript,
        "speaker": record.speaker,
    }


def show(diagnosis: Diagnosis, folder: Path) -> None:
    """Prints the counts, the first recordings that are dropped, and what a training would fail at."""
    table = Table(title=f"{diagnosis.experiment}: what a training would use")
    table.add_column("split", no_wrap=True)
    for heading in ("recordings", "used", "length", "mute", "worth a look", "dropped"):
        table.add_column(heading, justify="right")
    for split, counts in diagnosis.counts.items():
        numbers = (counts.mute, counts.remarks, counts.recordings - counts.used)
        length = duration_in_words(counts.usable_s)
        table.add_row(split, str(counts.recordings), str(counts.used), length, *map(str, numbers))
    console = Console()
    console.print(table)
    dropped = [finding for finding in diagnosis.findings if not finding.is_used]
    lines = [counts.line(split) for split, counts in diagnosis.counts.items()]
    lines += [f"dropped: {finding.verdict.reason}" for finding in dropped[:_MAX_LISTED]]
    if len(dropped) > _MAX_LISTED:
        lines.append(f"dropped: {len(dropped) - _MAX_LISTED} more")
    lines += [f"problem: {problem}" for problem in diagnosis.problems]
    lines.append(f"every recording: {folder / 'index.html'}, doctor.csv, doctor.json")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
