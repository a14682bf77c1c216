"""What rows say, and what is said about rows that say it wrongly."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from components.errors import InputError
from datamodules.reading.speech_manifest import read_manifest

Row = dict[str, Any]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """The manifest's folder with (here unread) media files."""
    for name in ("a.mp4", "b.mp4", "a.wav", "voice.wav"):
        (tmp_path / "media" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "media" / name).touch()
    return tmp_path


def write(folder: Path, rows: Sequence[Row], kind: str) -> Path:
    path = folder / f"set.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return path
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, names)
        out.writeheader()
        for row in rows:
            out.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return path


FULL = {
    "id": "one",
    "video": "media/a.mp4",
    "audio": "media/a.wav",
    "start": 1.5,
    "end": 4,
    "caption": "a face, seen from the left",
    "audio_caption": "a low voice",
    "transcript": 'she said "no", twice',
    "language": "en",
    "speaker": "anna",
    "reference_audio": "media/voice.wav",
    "onsets": [2.5, 1.75],
    "split": "train",
}
BARE = {"id": "two", "video": "media/b.mp4", "split": "val"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_both_kinds_say_the_same(media: Path, kind: str) -> None:
    found = read_manifest(write(media, [FULL, BARE], kind), default_caption="someone speaks")
    assert list(found) == ["train", "val"]
    one, two = found["train"][0], found["val"][0]
    assert (one.id, one.path, one.sound) == ("one", media / "media/a.mp4", media / "media/a.wav")
    assert (one.span_s, one.onsets, one.speaker) == ((1.5, 4.0), (1.75, 2.5), "anna")
    assert (one.caption, one.scene, one.transcript) == (FULL["caption"], FULL["audio_caption"], FULL["transcript"])
    assert (one.reference, one.video_id) == (media / "media/voice.wav", "media/a.mp4")
    assert (two.path, two.sound, two.span_s, two.onsets) == (media / "media/b.mp4", None, None, None)
    assert (two.caption, two.transcript, two.speaker, two.reference) == ("someone speaks", None, None, None)


def test_sound_alone(media: Path) -> None:
    rows = [FULL, {"id": "x", "audio": "media/voice.wav", "split": "train"}, {**BARE, "split": "train"}]
    path = write(media, rows, "jsonl")
    one, x, two = read_manifest(path, audio_only=True)["train"]
    assert (one.path, one.sound, one.caption) == (media / "media/a.wav", None, "a low voice")
    assert (x.path, x.video_id, two.path) == (media / "media/voice.wav", "media/voice.wav", media / "media/b.mp4")
    with pytest.raises(InputError, match=r"set\.jsonl, line 2: the row \(x\) has no video; remove it, or set audio_on"):
        read_manifest(path)


def test_open_spans_and_empty_onsets(media: Path) -> None:
    rows = [{"id": 1, "video": "media/a.mp4", "start": 2, "onsets": []}, {"id": 2, "video": "media/a.mp4", "end": 2}]
    one, two = read_manifest(write(media, rows, "jsonl"))[None]
    assert (one.id, one.span_s, one.onsets) == ("1", (2.0, float("inf")), ())
    assert (two.span_s, two.onsets) == ((0.0, 2.0), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None, "video": None, "audio": None}, "has neither id nor video nor audio"),
        ({"id": "two"}, "repeats the id 'two' of line 1; ids must be unique"),
        ({"video": "media/gone.mp4"}, "names media/gone.mp4 as video but .*gone.mp4 does not exist"),
        ({"audio": "media/gone.wav"}, "names media/gone.wav as audio but"),
        ({"reference_audio": "gone.wav"}, "names gone.wav as reference_audio but"),
        ({"video": 3}, "has 3 as video; it must be text"),
        ({"transcript": ["a"]}, r"has \['a'\] as transcript; it must be text"),
        ({"split": "dev"}, "has the split 'dev'; it must be train, val or test"),
        ({"split": None}, "and others disagree on whether rows have a split"),
        ({"start": "soon"}, "has 'soon' in start; it must be seconds from 0 on"),
        ({"start": -1}, "has -1 in start"),
        ({"end": True}, "has True in end"),
        ({"start": 4.0}, r"\(one\) ends at 4 s, not after its start at 4 s; correct it"),
        ({"onsets": 3}, "has 3 as onsets; it must be a list of seconds"),
        ({"onsets": [1, float("nan")]}, "has nan in onsets"),
        ({"onset": [1]}, "has the unknown column 'onset'; name it in ignore_columns or correct it"),
    ],
)
def test_a_wrong_row_is_named(media: Path, change: Row, message: str) -> None:
    path = write(media, [BARE, {**FULL, **change}], "jsonl")
    with pytest.raises(InputError, match=rf"set\.jsonl, line 2: the row {message}"):
        read_manifest(path)


def test_further_columns_can_be_allowed(media: Path) -> None:
    path = write(media, [{**BARE, "fps": 25}], "csv")
    assert len(read_manifest(path, ignore_columns=["fps"])["val"]) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": 1\n', r"a\.jsonl, line 1: not valid JSON"),
        ("a.jsonl", "\n[1]\n", r"a\.jsonl, line 2: a list; every row must be one JSON object"),
        ("a.jsonl", "", r"a\.jsonl has no rows"),
        ("a.csv", "id,video\n", r"a\.csv has no rows"),
        ("a.csv", "id,caption\n1,a, b\n", r"a\.csv, line 2: 3 fields, but the header names 2; quote texts with commas"),
        ("a.csv", "id,caption\n1\n", r"a\.csv, line 2: 1 fields, but the header names 2"),
        ("a.csv", 'id,caption\n1,"a\n', r"a\.csv is not valid CSV after line 1 "),
        ("a.txt", "x", r"a\.txt is neither \.jsonl nor \.csv; rename or convert it"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / name)
    with pytest.raises(InputError, match=r"the manifest .*gone\.csv does not exist"):
        read_manifest(tmp_path / "gone.csv")


def test_a_video_and_a_caption_are_enough(media: Path) -> None:
    path = media / "set.csv"
    path.write_text("video,caption\nmedia/a.mp4,a bell\n", encoding="utf-16")  # with a byte order mark
    ((split, (record,)),) = read_manifest(path).items()
    assert (split, record.id, record.caption, record.transcript, record.speaker) == (
        None,
        "media/a",
        "a bell",
        None,
        None,
    )
    path.write_bytes("video,caption\na.mp4,Glöckchen\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"set\.csv is neither UTF-8 nor UTF-16 .* \(byte 22\); save it as UTF-8"):
        read_manifest(path)


def test_a_path_that_leaves_its_root_is_named(media: Path) -> None:
    inner = media / "media" / "inner"
    inner.mkdir()
    path = write(inner, [BARE | {"video": "../a.mp4"}], "jsonl")
    with pytest.raises(InputError, match=r"set\.jsonl, line 1: the row names \.\./a\.mp4 as video, which lies outside"):
        read_manifest(path)
    path = write(inner, [BARE | {"video": "b.mp4", "reference_audio": str(media / "media" / "voice.wav")}], "jsonl")
    (inner / "b.mp4").touch()
    with pytest.raises(InputError, match=r"line 1: the row names /.*voice\.wav as reference_audio, which lies outside"):
        read_manifest(path, media_root=inner)
    (record,) = read_manifest(path)["val"]  # an absolute path says itself where it leads
    assert record.reference == media / "media" / "voice.wav"
    (record,) = read_manifest(write(inner, [BARE | {"video": "inner/../a.mp4"}], "jsonl"), media_root=inner.parent)[
        "val"
    ]
    assert record.path.resolve() == media / "media" / "a.mp4"


def test_many_rows_take_seconds(tmp_path: Path) -> None:
    """A file that is listed, not asked for, is found all the same, and one that is not there is named."""
    for number in range(200):
        (tmp_path / f"{number}.mp4").touch()
    rows = [{"id": number, "video": f"{number % 200}.mp4", "caption": "a bell"} for number in range(20_000)]
    path = write(tmp_path, rows, "jsonl")
    begin = process_time()
    assert len(read_manifest(path)[None]) == 20_000
    assert process_time() - begin < 3  # a third of a second where nothing else is at work
    path = write(tmp_path, [*rows, {"id": "last", "video": "200.mp4"}], "jsonl")
    with pytest.raises(InputError, match=r"line 20001: the row names 200\.mp4 as video but .*200\.mp4 does not exist"):
        read_manifest(path)
