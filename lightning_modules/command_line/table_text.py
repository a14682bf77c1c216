"""A paper's rows and those of runs as Markdown or LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_modules.command_line.paper_tables import Column, OwnRow, PaperTable, Value

_NONE = "–"
_ARROWS = {True: "$\\uparrow$", False: "$\\downarrow$"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def markdown(table: PaperTable, own: Sequence[OwnRow]) -> str:
    """A Markdown table: the papers' rows, ours with intervals and n, and below it by what ours were measured."""
    heads = [f"{column.name} {'↑' if column.higher_is_better else '↓'}" for column in table.columns]
    lines = [
        f"| {table.set_name} | {' | '.join(heads)} |",
        f"| --- | {' | '.join('---:' for _ in heads)} |",
    ]
    for system, numbers in table.rows.items():
        cells = [_plain(numbers.get(column.name), column) for column in table.columns]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    for row in own:
        cells = [_with_interval(row.values.get(column.name), column) for column in table.columns]
        lines.append(f"| {_escaped(row.name)} | {' | '.join(cells)} |")
    notes = [f"- {_escaped(note)}" for note in footnotes(table, own)]
    return "\n".join([*lines, "", *notes]) + "\n"


def latex(table: PaperTable, own: Sequence[OwnRow]) -> str:
    """As `markdown`, for LaTeX with the package booktabs."""
    heads = [f"{_tex(column.name)} {_ARROWS[column.higher_is_better]}" for column in table.columns]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * len(heads)}}}",
        "\\toprule",
        f"{_tex(table.set_name)} & {' & '.join(heads)} \\\\",
        "\\midrule",
    ]
    for system, numbers in table.rows.items():
        cells = [_plain(numbers.get(column.name), column).replace(_NONE, "--") for column in table.columns]
        lines.append(f"{_tex(system)} & {' & '.join(cells)} \\\\")
    lines.append("\\midrule")
    for row in own:
        cells = [_tex(_with_interval(row.values.get(column.name), column)) for column in table.columns]
        lines.append(f"{_tex(row.name)} & {' & '.join(cells)} \\\\")
    notes = [f"\\par\\footnotesize {_tex(note)}" for note in footnotes(table, own)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *notes]) + "\n"


def footnotes(table: PaperTable, own: Sequence[OwnRow]) -> list[str]:
    """Where the papers' numbers are from, and by what ours were measured, each said once."""
    notes = [
        f"Rows above: {table.source}. They compare with ours only where judge, clips and protocol are the same.",
        "Ours: mean over recordings, 95 % bootstrap interval over recordings, n recordings.",
    ]
    sets = dict.fromkeys(name for row in own for name, value in row.values.items() if value.between_sets)
    if sets:
        notes.append(f"{', '.join(sets)}: a distance between sets; n features of generated clips (frames, windows).")
    said: dict[str, list[str]] = {}
    for row in own:
        for column, judge in row.judges.items():
            if judge:
                said.setdefault(f"{column}: {judge}", []).append(row.name)
    for note, names in said.items():
        notes.append(f"{note} ({', '.join(names)})" if len(names) < len(own) else note)
    return notes


def _plain(value: float | None, column: Column) -> str:
    return _NONE if value is None else f"{value:.{column.digits}f}"


def _with_interval(value: Value | None, column: Column) -> str:
    if value is None:
        return _NONE
    digits = max(column.digits, 2)
    interval = f" ({value.low:.{digits}f}–{value.high:.{digits}f})" if math.isfinite(value.low + value.high) else ""
    return f"{value.value:.{digits}f}{interval}, n {value.n}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("–", "--")
