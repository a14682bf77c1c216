"""``avsync compare``: what differs between two evaluated runs, metric by metric over the clips that both have.

Imports neither torch nor Lightning: two files are read and a table is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

from callbacks.clip_scores import CLIPS_FILE, RESULTS_FILE, ClipScore, read_clip_scores
from components.errors import InputError
from components.metrics.bootstrap import bootstrap_interval

_OF_JUDGES = ("tolerance_s", "v2a", "v2a_settings", "v2a_sha256", "num_samples", "syncnet_sha256", "face_detector")
"""Facts of a judge in ``results.json``, in the order in which a difference is named."""


@dataclass(frozen=True)
class Run:
    """What is known of an evaluated run.

    Attributes:
        name: the path it was given by.
        scores: metric -> (clip, kind) -> score.
        entries: the entries of its ``results.json``; none where there is no such file.
    """

    name: str
    scores: Mapping[str, Mapping[tuple[str, str], ClipScore]]
    entries: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """One metric of two runs, over the clips that have a score in both.

    Attributes:
        a: mean over recordings of the first run.
        b: that of the second run.
        ci95: ends of the interval of ``b - a``; NaN over one recording.
        num_recordings: how many recordings it is over.
        num_clips: how many clips.
        only_a: clips that the second run does not have.
        only_b: clips that the first run does not have.
        unscored: clips of both runs that have no score in one of them.
    """

    a: float
    b: float
    ci95: tuple[float, float]
    num_recordings: int
    num_clips: int
    only_a: int
    only_b: int
    unscored: int

    @property
    def difference(self) -> float:
        """How much more the second run has."""
        return self.b - self.a


def main(args: Sequence[str]) -> int:
    """Compares the two runs named by ``args`` and prints what it found.

    Raises:
        InputError: if a run cannot be read, or nothing can be compared.
    """
    parser = _Parser(prog="avsync compare", description="Says what differs between two evaluated runs.")
    help_text = f"a run's folder, or its {RESULTS_FILE} or {CLIPS_FILE}"
    parser.add_argument("a", metavar="RUN", help=help_text)
    parser.add_argument("b", metavar="RUN", help="another one; differences are this one's minus the first one's")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(args)
    a, b = read_run(Path(chosen.a)), read_run(Path(chosen.b))
    found, refused = compared(a, b)
    if not found:
        reasons = "; ".join(f"{metric}: {reason}" for metric, reason in refused.items()) or "one has no metric"
        raise InputError(f"nothing of '{a.name}' and '{b.name}' can be compared ({reasons}); evaluate both alike")
    if chosen.json:
        sys.stdout.write(json.dumps(_record(a, b, found, refused), indent=2, allow_nan=False) + "\n")
    else:
        _show(a, b, found, refused)
    return 0


def read_run(path: Path) -> Run:
    """The scores of a run.

    Args:
        path: its folder, or one of the two files in it.

    Raises:
        InputError: if a file is missing or damaged.
    """
    if path.is_dir():
        clips, results = path / CLIPS_FILE, path / RESULTS_FILE
    elif path.suffix == ".jsonl":
        clips, results = path, path.with_name(RESULTS_FILE)
    else:
        clips, results = path.with_name(CLIPS_FILE), path
    if not path.exists():
        raise InputError(f"'{path}' does not exist; give a run's folder, such as runs/quickstart/version_0")
    if not clips.is_file():
        runs = sorted(file.parent.name for file in path.glob(f"*/{CLIPS_FILE}")) if path.is_dir() else []
        fix = f"give one of its runs: {', '.join(runs)}" if runs else "evaluate the run again (avsync validate)"
        raise InputError(f"'{clips}' does not exist, so the clips of '{path}' cannot be compared; {fix}")
    scores: dict[str, dict[tuple[str, str], ClipScore]] = {}
    for score in read_clip_scores(clips):
        of_metric = scores.setdefault(score.metric, {})
        if of_metric.setdefault((score.clip, score.kind), score) is not score:
            raise InputError(f"'{clips}' has two scores {score.metric} of clip {score.clip}; evaluate the run again")
    return Run(str(path), scores, _entries(results) if results.is_file() else {})


def compared(a: Run, b: Run) -> tuple[dict[str, Difference], dict[str, str]]:
    """Differences by metric, and by metric why others cannot be compared."""
    found: dict[str, Difference] = {}
    refused: dict[str, str] = {}
    for metric in dict.fromkeys([*a.scores, *b.scores]):
        if metric not in a.scores or metric not in b.scores:
            refused[metric] = f"only in {b.name if metric in b.scores else a.name}"
        elif reason := _judged_otherwise(metric, a, b):
            refused[metric] = reason
        elif (difference := _difference(a.scores[metric], b.scores[metric])) is None:
            refused[metric] = "no clip has a score in both runs"
        else:
            found[metric] = difference
    return found, refused


def _judged_otherwise(metric: str, a: Run, b: Run) -> str | None:
    judges = [sorted({score.judge or "" for score in run.scores[metric].values()}) for run in (a, b)]
    if judges[0] == judges[1]:
        return None
    one, other = (run.entries.get(metric, {}) for run in (a, b))
    differ = [f"{fact} {one[fact]} and {other[fact]}" for fact in _OF_JUDGES if one.get(fact) != other.get(fact)]
    return f"judged otherwise ({differ[0]})" if differ else "judged by different judges, or with different settings"


def _difference(a: Mapping[tuple[str, str], ClipScore], b: Mapping[tuple[str, str], ClipScore]) -> Difference | None:
    both = [key for key in a if key in b]
    recordings: dict[str, list[tuple[float, float]]] = {}
    for key in both:
        if a[key].recording != b[key].recording:
            raise InputError(
                f"clip {key[0]} was cut from recording {a[key].recording} in one run and from {b[key].recording} in "
                "the other, so they are not the same clips; evaluate both runs on one data set"
            )
        one, other = a[key].value, b[key].value
        if one is not None and other is not None:
            recordings.setdefault(a[key].recording, []).append((one, other))
    if not recordings:
        return None
    # clips of a recording are averaged first, as in the results; sorted, so that the order of lines decides nothing
    pairs = [[fmean(side) for side in zip(*recordings[name], strict=True)] for name in sorted(recordings)]
    means = np.array(pairs).T  # [2, V]
    (low,), (high,) = bootstrap_interval(means[1:] - means[:1])
    num_clips = sum(map(len, recordings.values()))
    return Difference(
        a=fmean(means[0].tolist()),
        b=fmean(means[1].tolist()),
        ci95=(float(low), float(high)),
        num_recordings=len(recordings),
        num_clips=num_clips,
        only_a=len(a) - len(both),
        only_b=len(b) - len(both),
        unscored=len(both) - num_clips,
    )


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        return {name: dict(entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"'{file}' is no {RESULTS_FILE} of a run; evaluate the run again") from None


def _show(a: Run, b: Run, found: Mapping[str, Difference], refused: Mapping[str, str]) -> None:
    table = Table(title="B - A over the clips of both")
    table.add_column("metric")
    for heading in ("A", "B", "B - A", "95 % interval", "n", "clips"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes = [f"A: {a.name}", f"B: {b.name}"]
    for metric, item in found.items():
        low, high = item.ci95
        interval = f"{low:.2f} to {high:.2f}" if math.isfinite(low + high) else "–"
        values = (f"{item.a:.2f}", f"{item.b:.2f}", f"{item.difference:+.2f}", interval)
        table.add_row(metric, *values, str(item.num_recordings), str(item.num_clips))
        counts = {"only in A": item.only_a, "only in B": item.only_b, "without a score in one of them": item.unscored}
        if left_out := [f"{count} {what}" for what, count in counts.items() if count]:
            notes.append(f"{metric}: left out are clips {', '.join(left_out)}")
    if any(item.num_recordings == 1 for item in found.values()):
        notes.append("over one recording there is no interval")
    notes += [f"{metric}: not compared, {reason}" for metric, reason in refused.items()]
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def _record(a: Run, b: Run, found: Mapping[str, Difference], refused: Mapping[str, str]) -> dict[str, object]:
    metrics = {
        metric: {
            "a": item.a,
            "b": item.b,
            "difference": item.difference,
            "ci95": [end if math.isfinite(end) else None for end in item.ci95],
            "n": item.num_recordings,
            "n_clips": item.num_clips,
            "only_a": item.only_a,
            "only_b": item.only_b,
            "unscored": item.unscored,
        }
        for metric, item in found.items()
    }
    return {"a": a.name, "b": b.name, "metrics": metrics, "not_compared": dict(refused)}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage."""
        raise InputError(f"{message}; use avsync compare RUN RUN [--json]")
