"""The scores of every clip: ``clips.jsonl``, which stands beside ``results.json`` and which runs are compared by.

Imports the standard library alone: who compares two finished runs waits for no framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from components.errors import InputError
from components.weights.whole_file import whole_file

CLIPS_FILE = "clips.jsonl"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class ClipScore:
    """One line of ``clips.jsonl``.

    Attributes:
        clip: name of the clip.
        recording: what it was cut from; intervals are over recordings.
        kind: kind of video that is judged: ``generated``, a variant's name, ``real`` or ``chance``.
        metric: the entry of ``results.json`` whose mean it takes part in.
        value: the score in the unit of that entry, None where the clip has none.
        judge: digest of all that the score depends on beside the clip, as in that entry; None where it has no judge.
    """

    clip: str
    recording: str
    kind: str
    metric: str
    value: float | None
    judge: str | None = None


def write_clip_scores(file: Path, scores: Iterable[ClipScore]) -> None:
    """Writes one JSON object a line; the file is never seen in part."""
    lines = (json.dumps(asdict(score), allow_nan=False, ensure_ascii=False) + "\n" for score in scores)
    with whole_file(file) as stream:
        stream.writelines(line.encode() for line in lines)


def read_clip_scores(file: Path) -> list[ClipScore]:
    """The scores in a ``clips.jsonl``.

    Raises:
        InputError: if it cannot be read, or a line is no score.
    """
    try:
        # not `splitlines`, which also ends lines at characters that names in JSON may hold
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"cannot read '{file}' ({reason}); give a run that has been evaluated") from None
    return [_score(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _score(file: Path, number: int, line: str) -> ClipScore:
    names = [field.name for field in fields(ClipScore)]
    try:
        row = json.loads(line)
        score = ClipScore(**{name: row[name] for name in names})
        texts = [score.clip, score.recording, score.kind, score.metric, score.judge or ""]
        value = None if score.value is None else float(score.value)
        whole = all(isinstance(text, str) for text in texts) and (value is None or math.isfinite(value))
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise InputError(
            f"line {number} of '{file}' is no score of a clip ({line[:60]}); it holds {', '.join(names)} in every "
            "line: evaluate the run again"
        )
    return score
