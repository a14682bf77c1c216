"""The papers' tables as data, and what of a run's results belongs into their columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from callbacks.clip_scores import RESULTS_FILE
from components.errors import InputError

PAPERS = Path(__file__).resolve().parents[2] / "configs" / "eval" / "papers.yaml"
WHOLE = "all"
"""The set that is all of a run's clips."""


@dataclass(frozen=True)
class Column:
    """A metric of a paper's table.

    Attributes:
        name: its heading.
        entries: names in ``results.json``, the first that a run has counts.
        higher_is_better: which way is better.
        digits: behind the point.
        scale: what a run's value is multiplied by.
        of: the subsets that count in the set of all clips; empty where all clips do.
    """

    name: str
    entries: tuple[str, ...]
    higher_is_better: bool
    digits: int
    scale: float = 1.0
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """One set of a paper.

    Attributes:
        source: the paper.
        set_name: the data that its numbers are of.
        subset: the part of a run's results that this is, or None for all of its clips.
        columns: its metrics.
        rows: system -> column -> value.
    """

    source: str
    set_name: str
    subset: str | None
    columns: Sequence[Column]
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Value:
    """A value of a run.

    Attributes:
        value: a mean, or a distance between sets.
        low: lower end of its 95 % interval; NaN where there is none, as over one recording.
        high: the upper end.
        n: over how many items.
        between_sets: it is a distance, which has no interval whatever n.
    """

    value: float
    low: float
    high: float
    n: int
    between_sets: bool


@dataclass(frozen=True)
class OwnRow:
    """What a run has for a table.

    Attributes:
        name: of the row.
        values: column -> value.
        judges: column -> all that says by what it was measured, and of which clips where not of the whole set.
    """

    name: str
    values: Mapping[str, Value]
    judges: Mapping[str, str]


def paper_table(paper: str, set_name: str | None, file: Path = PAPERS) -> PaperTable:
    """A paper's table of one set, by default its first.

    Raises:
        InputError: if there is no such paper or set; names those there are.
    """
    papers = yaml.safe_load(file.read_text(encoding="utf-8"))
    if paper not in papers:
        raise InputError(f"--papers is {paper}, of which {file.name} has no table; it has {', '.join(papers)}")
    held = papers[paper]
    chosen = next(iter(held["sets"])) if set_name is None else set_name
    if chosen not in held["sets"]:
        raise InputError(f"--set is {chosen}, which {paper} has no table of; it has {', '.join(held['sets'])}")
    columns = [
        Column(
            name,
            tuple(said["entries"]),
            said["better"] == "higher",
            said["digits"],
            said.get("scale", 1.0),
            tuple(said.get("of", ())),
        )
        for name, said in held["columns"].items()
    ]
    return PaperTable(held["source"], chosen, held["subsets"].get(chosen), columns, held["sets"][chosen])


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a run's ``results.json``.

    Args:
        path: the run's folder or the file.

    Raises:
        InputError: if it does not exist or is damaged.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"'{file}' does not exist; give a run that has been evaluated (avsync test, avsync score)")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        whole = all(isinstance(entry["value"], int | float) for entry in entries.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f"'{file}' holds no results of a run; evaluate the run again")
    found: dict[str, dict[str, Any]] = entries
    return found


def own_row(name: str, entries: Mapping[str, Mapping[str, Any]], table: PaperTable, kind: str | None) -> OwnRow:
    """What a run has for the columns of a table.

    Args:
        name: of the row.
        entries: of its ``results.json``.
        table: the paper's.
        kind: a variant, ``real`` or ``chance``; None for what was generated.

    Raises:
        InputError: if it has nothing for any column.
    """
    values, judges = {}, {}
    for column in table.columns:
        names = [entry if kind is None else f"{entry}_{kind}" for entry in column.entries]
        entry = next((entries[one] for one in names if one in entries), None)
        parts, clips = ([], "") if entry is None else _parts(entry, table.subset, column)
        if entry is not None and parts:
            values[column.name] = _together([_value(part, column.scale) for part in parts])
            judges[column.name] = ", ".join(said for said in (clips, judge_of(entry)) if said)
    if not values:
        wanted = ", ".join(column.entries[0] for column in table.columns)
        of = f" in the subset {table.subset}" if table.subset else ""
        raise InputError(f"{name} has none of the metrics of the table{of} ({wanted}); it has {', '.join(entries)}")
    return OwnRow(name, values, judges)


def _parts(entry: Mapping[str, Any], subset: str | None, column: Column) -> tuple[list[Mapping[str, Any]], str]:
    """What of an entry belongs into a column, and of which clips that is where not of all of the set's."""
    found: Mapping[str, Mapping[str, Any]] = entry.get("groups", {}).get("subset", {})
    if subset is not None:
        return ([found[subset]] if subset in found else []), ""
    if not column.of:
        return [entry], ""
    if not found:
        return [entry], f"of all clips, which name no subsets (the paper's are of {' and '.join(column.of)})"
    there = [name for name in column.of if name in found]
    missing = [name for name in column.of if name not in found]
    without = f" (none of {' and '.join(missing)} was scored)" if missing else ""
    return [found[name] for name in there], f"clips of {' and '.join(there)}{without}"


def _value(entry: Mapping[str, Any], scale: float) -> Value:
    low, high = (math.nan if end is None else end * scale for end in entry["ci95"])
    distance = entry["n"] > 1 and math.isnan(low)
    return Value(entry["value"] * scale, min(low, high), max(low, high), entry["n"], distance)


def _together(parts: Sequence[Value]) -> Value:
    """The mean over all items of parts that share none.

    The interval is put together from theirs (Zou and Donner's MOVER, 2008): distances from the means add up in squares.
    """
    n = sum(part.n for part in parts)
    mean = sum(part.n * part.value for part in parts) / n
    below = math.hypot(*(part.n / n * (part.value - part.low) for part in parts))
    above = math.hypot(*(part.n / n * (part.high - part.value) for part in parts))
    return Value(mean, mean - below, mean + above, n, all(part.between_sets for part in parts))


_NO_JUDGES = ("value", "ci95", "n", "groups", "tolerances", "sem", "by_unit", "by_sound_offset", "problems")


def judge_of(entry: Mapping[str, Any]) -> str:
    """By what an entry was measured, in one line: names, settings and the first 12 digits of digests."""
    told = []
    for key, fact in entry.items():
        if key in _NO_JUDGES or key.startswith("n_") or fact is None or fact == "":
            continue
        if isinstance(fact, str) and key.endswith("sha256"):
            fact = fact[:12]
        if isinstance(fact, float):
            fact = f"{fact:.4g}"
        told.append(f"{key} {json.dumps(fact) if isinstance(fact, dict | list) else fact}")
    return ", ".join(told)
