"""What happens to transcripts that are longer than an encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from components.errors import InputError

OnTooLong = Literal["error", "truncate"]


def within_bytes(texts: Sequence[str], ids: Sequence[str] | None, limit: int, on_too_long: OnTooLong) -> list[str]:
    """The texts, each of at most ``limit`` UTF-8 bytes; a character is never cut in two.

    Args:
        texts: what is said in each clip.
        ids: the clips' names, or None.
        limit: bytes that are read.
        on_too_long: ``error`` refuses a longer text, ``truncate`` drops its end.

    Raises:
        InputError: if a text is too long and is not to be truncated, naming its clip.
    """

    def count(text: str) -> int:
        return len(text.encode())

    def cut(text: str) -> str:
        return text.encode()[:limit].decode(errors="ignore")

    return _within(texts, ids, limit, "bytes", on_too_long, count, cut)


def within_characters(texts: Sequence[str], ids: Sequence[str] | None, limit: int, on_too_long: OnTooLong) -> list[str]:
    """As `within_bytes`, but for characters."""
    return _within(texts, ids, limit, "characters", on_too_long, len, lambda text: text[:limit])


def _within(
    texts: Sequence[str],
    ids: Sequence[str] | None,
    limit: int,
    unit: str,
    on_too_long: OnTooLong,
    count: Callable[[str], int],
    cut: Callable[[str], str],
) -> list[str]:
    kept = []
    for index, text in enumerate(texts):
        found = count(text)
        if found > limit and on_too_long == "error":
            clip = "" if ids is None else f" of clip '{ids[index]}'"
            raise InputError(
                f"the transcript{clip} has {found} {unit} but at most {limit} are read ('{text[:40]}...'): shorten it, "
                "cut the clip, raise the limit, or set the transcript encoder's on_too_long to truncate"
            )
        kept.append(cut(text) if found > limit else text)
    return kept
