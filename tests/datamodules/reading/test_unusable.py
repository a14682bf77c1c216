"""Each recording that is skipped is told once and counted by what is wrong."""

import logging
from pathlib import Path

import pytest

from components.errors import Fault, InputError
from datamodules.reading.records import ClipRecord
from datamodules.reading.unusable import UnusableClips

RECORDS = [ClipRecord(f"r{k}", Path(f"{k}.mp4"), "", f"r{k}") for k in range(20)]


def book(max_fraction: float = 1.0, expected: tuple[Fault, ...] = ()) -> UnusableClips:
    return UnusableClips(RECORDS, max_fraction, expected)


def test_the_summary_names_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    clips = book()
    assert clips.summary() is None
    with caplog.at_level(logging.WARNING, "avsync.data"):
        clips.report(3, InputError("3.mp4 is too short", "shorter than a clip"))
        clips.report(3, InputError("3.mp4 is too short", "shorter than a clip"))
        clips.report(5, InputError("5.mp4 is corrupt"))
        clips.report(7, InputError("7.mp4 is too short", "shorter than a clip"))
    assert [record.getMessage() for record in caplog.records] == [
        "skipped unusable clip 1 of 20: 3.mp4 is too short",
        "skipped unusable clip 2 of 20: 5.mp4 is corrupt",
        "skipped unusable clip 3 of 20: 7.mp4 is too short",
    ]
    wanted = "skipped 3 of 20 recordings: 2 shorter than a clip, 1 unreadable (3.mp4, 5.mp4, 7.mp4)"
    assert clips.summary() == wanted


def test_what_was_asked_to_be_passed_over_is_no_part_of_the_share() -> None:
    clips = book(max_fraction=0.1, expected=("without sound",))
    for index in range(10):
        clips.report(index, InputError("mute", "without sound"))
    for index in (10, 11):
        clips.report(index, InputError("corrupt"))
    with pytest.raises(InputError, match=r"3 of 20 clips cannot be used, .* allows: 10\.mp4, 11\.mp4, 12\.mp4; the la"):
        clips.report(12, InputError("corrupt"))


def test_a_long_list_is_cut() -> None:
    clips = book()
    for index in range(14):
        clips.report(index, InputError("corrupt"))
    assert str(clips.summary()).endswith("8.mp4, 9.mp4 and 4 more, named above)")


def test_sets_that_share_a_book_count_together() -> None:
    clips = book(max_fraction=0.1, expected=("without sound",))
    first, second = clips.part(0), clips.part(12)
    first.report(1, InputError("corrupt"))
    second.report(1, InputError("mute", "without sound"))
    second.report(2, InputError("short", "shorter than a clip"))
    assert [second.known(index) for index in range(3)] == [False, True, True]
    assert (first.known(1), first.known(13), first.count) == (True, True, 3)
    assert second.part(2).known(0)
    wanted = "skipped 3 of 20 recordings: 1 unreadable, 1 shorter than a clip, 1 without sound (1.mp4, 13.mp4, 14.mp4)"
    assert first.summary() == second.summary() == wanted
    with pytest.raises(InputError, match=r"3 of 20 clips cannot be used, .* allows: 1\.mp4, 14\.mp4, 15\.mp4; the la"):
        second.report(3, InputError("corrupt"))
