"""What was found, as JSON and as a Markdown table, both rewritten after every row: a stop leaves whole files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.errors import InputError

JSON_FILE, TABLE_FILE = "results.json", "results.md"
REHEARSAL = "rehearsal on a CPU"
PACKAGES = ("torch", "torchaudio", "triton", "lightning", "torchmetrics", "diffusers", "transformers", "peft", "av")
Record = dict[str, Any]


def machine_facts(device: str) -> Record:
    """Card, driver, processor and versions."""
    facts: Record = {"python": platform.python_version(), "processors": os.cpu_count(), "versions": _versions()}
    if not device.startswith("cuda"):
        return {"card": REHEARSAL, **facts}
    card = torch.cuda.get_device_properties(device)
    return {
        "card": card.name,
        "memory_gib": round(card.total_memory / 2**30, 1),
        "multiprocessors": card.multi_processor_count,
        "capability": f"{card.major}.{card.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **facts,
    }


def _versions() -> Record:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip().partition("\n")[0] or "unknown"


class Results:
    """The rows of a folder, those of earlier runs among them.

    Args:
        folder: where the files are.
        order: names of all rows, in the order of the table.
        is_rehearsal: whether this run has no card.

    Raises:
        InputError: if the folder holds results of the other kind, or a file that is not ours.
    """

    def __init__(self, folder: Path, order: list[str], is_rehearsal: bool) -> None:
        self.folder = folder
        self.order = order
        self.machine: Record = {}
        self.rows: dict[str, Record] = {}
        self.is_rehearsal = is_rehearsal
        file = folder / JSON_FILE
        if file.exists():
            try:
                earlier = json.loads(file.read_text())
                rows = {row["name"]: row for row in earlier["rows"]}
                rehearsed = bool(earlier["rehearsal"])
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file} was not written by this benchmark; give --out another folder") from None
            if rehearsed != is_rehearsal:
                kind = f"a {REHEARSAL}" if rehearsed else "figures of a card"
                raise InputError(f"{file} holds {kind}; give --out another folder")
            self.machine, self.rows = earlier["machine"], rows

    def begin(self, name: str, about: str) -> Record:
        """A new row in place of an earlier one of that name."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        row: Record = {"name": name, "about": about, "status": "begun", "at": at, "card": self.machine.get("card")}
        self.rows[name] = {**row, "values": {}, "comparisons": {}}
        self.write()
        return self.rows[name]

    def write(self) -> None:
        """Both files, each whole or not at all."""
        known = [*self.order, *(name for name in self.rows if name not in self.order)]
        rows = [self.rows[name] for name in known if name in self.rows]
        record = {"rehearsal": self.is_rehearsal, "machine": self.machine, "rows": rows}
        _replace(self.folder / JSON_FILE, json.dumps(record, indent=1, allow_nan=False) + "\n")
        _replace(self.folder / TABLE_FILE, self.table())

    def table(self) -> str:
        """The Markdown page."""
        rows = [self.rows[name] for name in self.order if name in self.rows]
        lines = ["# avsync on a GPU", ""]
        if self.is_rehearsal:
            lines += [f"**{REHEARSAL}**: toy sizes, nothing here says anything about a card.", ""]
        facts = {key: value for key, value in self.machine.items() if key != "versions"}
        lines += ["; ".join(f"{key} {value}" for key, value in facts.items())]
        lines += ["; ".join(f"{name} {version}" for name, version in self.machine.get("versions", {}).items()), ""]
        lines += ["| row | status | seconds | what was found |", "| --- | --- | ---: | --- |"]
        for row in rows:
            seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
            lines.append(f"| {row['name']} | {row['status']} | {seconds} | {_cell(row)} |")
        for row in rows:
            if row.get("traceback"):
                lines += ["", f"## {row['name']}", "", "```text", row["traceback"].rstrip(), "```"]
        return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any]) -> str:
    """Reason, comparisons and single values of a row on one line; lists are in the JSON alone."""
    parts = [row["reason"]] if row.get("reason") else []
    measured = {name: found for name, found in row["comparisons"].items() if "difference" in found}
    if measured:
        shown = [f"{name} {_shown(found['difference'])}" for name, found in measured.items()]
        parts.append("differences: " + ", ".join(shown))
    parts += [f"{name}: {'yes' if found['passed'] else 'NO'}" for name, found in row["comparisons"].items()
              if "difference" not in found]  # fmt: skip
    parts += [f"{name} {_shown(value)}" for name, value in row["values"].items() if not isinstance(value, list | dict)]
    return "; ".join(parts).replace("|", "/").replace("\n", " ")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(text)
    partial.replace(file)
