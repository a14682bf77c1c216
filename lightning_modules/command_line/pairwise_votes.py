"""What votes on a page of ``avsync pairwise`` say: which system is preferred, and how sure that is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from components.errors import InputError
from components.metrics.bootstrap import bootstrap_interval
from lightning_modules.command_line.pairwise_questions import FORMAT, QUESTIONS

_Z = 1.959963984540054
"""Of a 95 % interval."""


@dataclass(frozen=True)
class Preference:
    """Votes on one question.

    What is estimated is the share of all votes that the first system has, as user studies report it. Votes on one clip
    are not independent of each other, so the interval to go by is ``over_clips``: the cluster bootstrap of that share,
    in which clips are drawn with all their votes.

    Attributes:
        for_a: votes for the first system.
        for_b: votes for the second.
        wilson: ends of the 95 % Wilson interval of the first's share, as if votes were independent.
        over_clips: ends of its 95 % cluster bootstrap interval; NaN over one clip.
        num_clips: clips with a vote.
        on_left: votes for what was on the left, whichever it was: far from half, people did not look.
    """

    for_a: int
    for_b: int
    wilson: tuple[float, float]
    over_clips: tuple[float, float]
    num_clips: int
    on_left: int

    @property
    def num_votes(self) -> int:
        """All votes on the question."""
        return self.for_a + self.for_b

    @property
    def share_of_a(self) -> float:
        """The first system's share of all votes, 0 to 1: what both intervals are of."""
        return self.for_a / self.num_votes


def count_votes(files: Sequence[Path]) -> None:
    """Prints who is preferred on each question.

    Raises:
        InputError: if a file cannot be read, is given twice or is of another page, or nobody has voted.
    """
    ballots = read_ballots(files)
    first = ballots[0]
    found = preferences(ballots)
    if not found:
        raise InputError(f"{files[0]} has no votes, nor has any other file; answer a question before saving")
    table = Table(title=f"A: {first['a']}   B: {first['b']}   ({len(ballots)} ballots)")
    table.add_column("question")
    for heading in ("A : B", "prefer A", "95 %, votes (Wilson)", "95 %, clips (bootstrap)", "clips", "left"):
        table.add_column(heading, justify="right")
    for question, one in found.items():
        table.add_row(
            question,
            f"{one.for_a} : {one.for_b}",
            f"{100 * one.share_of_a:.1f} %",
            _interval(one.wilson),
            _interval(one.over_clips),
            str(one.num_clips),
            f"{100 * one.on_left / one.num_votes:.0f} %",
        )
    Console().print(table)


def read_ballots(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The files of votes, all of one page.

    Raises:
        InputError: if one cannot be read, is of another page, or has the same ballot as another.
    """
    ballots: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    for file in files:
        ballot = _ballot(file)
        if ballots and ballot["study"] != ballots[0]["study"]:
            raise InputError(
                f"'{file}' holds votes on another page than '{files[0]}' (study {ballot['study']} and "
                f"{ballots[0]['study']}); count them apart"
            )
        if (before := seen.setdefault(ballot["ballot"], file)) is not file:
            raise InputError(f"'{file}' and '{before}' are saves of the same ballot; give the later one alone")
        ballots.append(ballot)
    return ballots


def _ballot(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"'{file}' does not exist; give files of votes that the page has saved")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        texts = [found[name] for name in ("study", "a", "b", "ballot")]
        whole = found["format"] == FORMAT and all(isinstance(text, str) for text in texts)
        whole &= all(
            isinstance(vote["clip"], str)
            and vote["question"] in QUESTIONS
            and vote["choice"] in ("a", "b")
            and vote["side"] in ("left", "right")
            for vote in found["votes"]
        )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        whole = False
    if not whole:
        raise InputError(f"'{file}' is no file of votes; save it anew from the page of avsync pairwise")
    return found


def preferences(ballots: Sequence[Mapping[str, Any]]) -> dict[str, Preference]:
    """What is preferred on each question that has votes."""
    found = {}
    for question in QUESTIONS:
        votes = [vote for ballot in ballots for vote in ballot["votes"] if vote["question"] == question]
        if not votes:
            continue
        clips: dict[str, list[float]] = {}
        for vote in votes:
            clips.setdefault(vote["clip"], []).append(float(vote["choice"] == "a"))
        of_clips = [clips[clip] for clip in sorted(clips)]
        shares, counts = np.array([fmean(of_clip) for of_clip in of_clips]), np.array([len(one) for one in of_clips])
        (low,), (high,) = bootstrap_interval(shares[None], counts)
        for_a = sum(vote["choice"] == "a" for vote in votes)
        found[question] = Preference(
            for_a=for_a,
            for_b=len(votes) - for_a,
            wilson=wilson_interval(for_a, len(votes)),
            over_clips=(float(low), float(high)),
            num_clips=len(clips),
            on_left=sum(vote["side"] == "left" for vote in votes),
        )
    return found


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Ends of the 95 % score interval of a share (Wilson, 1927); never beyond 0 and 1, and not empty at either.

    Args:
        successes: how many of the trials.
        trials: at least 1.
    """
    share, z2 = successes / trials, _Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _interval(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{100 * low:.1f} to {100 * high:.1f}" if math.isfinite(low + high) else "–"
