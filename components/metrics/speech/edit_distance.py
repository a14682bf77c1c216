"""How many words or letters have to be replaced, left out or put in to make one sequence of another."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(given: Sequence[str], wanted: Sequence[str]) -> int:
    """Levenshtein's distance: the fewest replacements, deletions and insertions from ``given`` to ``wanted``."""
    # a row of the table at a time: distances of the part of ``given`` so far to every beginning of ``wanted``
    row = list(range(len(wanted) + 1))
    for count, item in enumerate(given, start=1):
        before, row = row, [count]
        for place, other in enumerate(wanted):
            row.append(min(before[place] + (item != other), before[place + 1] + 1, row[place] + 1))
    return row[-1]
