"""What happens to transcripts that are longer than an encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from components.errors import InputError

OnTooLong = Literal["error", "truncate"]


def within_limit(
    transcripts: Sequence[str],
    ids: Sequence[str] | None,
    limit: int,
    unit: str,
    on_too_long: OnTooLong,
    length: Callable[[str], int] = len,
    cut: Callable[[str, int], str] = lambda text, limit: text[:limit],
) -> list[str]:
    """The transcripts, each of at most ``limit`` units.

    Args:
        transcripts: what is said in each clip.
        ids: the clips' names, or None.
        limit: how long a transcript may be.
        unit: what is counted, such as ``bytes``.
        on_too_long: ``error`` refuses a longer one, ``truncate`` drops its end.
        length: counts the units of a text.
        cut: the first so many units of a text.

    Raises:
        InputError: if a transcript is too long and is not to be truncated, naming its clip.
    """
    kept = []
    for index, text in enumerate(transcripts):
        found = length(text)
        if found > limit:
            if on_too_long == "error":
                clip = f"clip '{ids[index]}'" if ids is not None else f"clip {index} of its batch"
                raise InputError(
                    f"the transcript of {clip} has {found} {unit} but at most {limit} are read ('{text[:40]}...'): "
                    "shorten it, cut the clip, raise the limit, or set the transcript encoder's on_too_long to truncate"
                )
            text = cut(text, limit)
        kept.append(text)
    return kept
