"""The lists of AudioCaps, Clotho and WavCaps as they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.weights.pretrained import located
from datamodules.reading.clip_data_module import Split
from datamodules.reading.listed_media import ListedMedia, check_unique, json_of, listing_of, published_rows
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import RecordsBySplit

AUDIOCAPS_S = 10
WAVCAPS_SOURCES = ("AudioSet_SL", "BBC_Sound_Effects", "FreeSound", "SoundBible")
_CLOTHO_PARTS: dict[str, Split] = {"development": "train", "validation": "val", "evaluation": "test"}
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def read_audiocaps(root: Path, media: ListedMedia) -> RecordsBySplit:
    """Records of the lists ``train.csv``, ``val.csv`` and ``test.csv`` that are there; rows of one clip are one record.

    Raises:
        InputError: there is no list for training, or one cannot be used.
    """
    found: RecordsBySplit = {}
    for split in _SPLITS:
        names = (f"{split}.csv", f"dataset/{split}.csv", f"dataset2.0/{split}.csv")
        if split != "train" and not any((root / name).is_file() for name in names):
            continue
        listing = listing_of(root, *names)
        clips: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for line, row in published_rows(listing, ("audiocap_id", "youtube_id", "start_time", "caption")):
            if not row["start_time"].isdigit():
                raise InputError(f"{listing}, line {line}: start_time is {row['start_time']!r}; it must be a second")
            clip = clips.setdefault((row["youtube_id"], int(row["start_time"])), [])
            clip.append((row["audiocap_id"], row["caption"]))
        records = []
        for (name, start), rows in clips.items():
            by_time = (
                f"{name}_{start}",
                f"{name}_{start:06d}",
                f"{name}_{start * 1000}_{(start + AUDIOCAPS_S) * 1000}",
            )
            path = media.find(*by_time, *(number for number, _ in rows), name, f"Y{name}")
            if path is not None:
                captions = [caption for _, caption in rows]
                records.append(
                    ClipRecord(f"{name}_{start}", path, captions[0], name, other_captions=tuple(captions[1:]))
                )
        media.report(listing)
        found[split] = records
    return found


def read_clotho(root: Path, media: ListedMedia) -> RecordsBySplit:
    """Records of the lists ``clotho_captions_<part>.csv`` that are there.

    Raises:
        InputError: there is no list for training, or one cannot be used.
    """
    found: RecordsBySplit = {}
    columns = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
    for part, split in _CLOTHO_PARTS.items():
        file = f"clotho_captions_{part}.csv"
        if split != "train" and not (root / file).is_file():
            continue
        listing = listing_of(root, file)
        records = []
        for _, row in published_rows(listing, columns):
            stem = row["file_name"].removesuffix(".wav")
            path = media.find(stem, below=part)
            if path is not None:
                first, *others = (row[column] for column in columns[1:])
                name = f"{part}/{stem}"
                records.append(ClipRecord(name, path, first, name, other_captions=tuple(others)))
        check_unique(records, listing)
        media.report(listing)
        found[split] = records
    return found


def read_wavcaps(
    root: Path, media: ListedMedia, sources: Sequence[str] | None, blacklist: str | None
) -> list[ClipRecord]:
    """Records of the sources' lists.

    Args:
        root: the folder that holds ``json_files`` (or the sources' folders themselves).
        media: the sounds.
        sources: which to use; None for all that are there.
        blacklist: a JSON file with names to leave out, in one list or in one for each source (``FreeSound``,
            ``AudioSet``, as published); or None.

    Raises:
        InputError: a list is missing or cannot be used.
    """
    lists = root / "json_files" if (root / "json_files").is_dir() else root
    records = []
    for source in sources or [name for name in WAVCAPS_SOURCES if (lists / name).is_dir()]:
        # numbers name the sounds of FreeSound and of SoundBible, and one number two sounds
        others = [name for name in WAVCAPS_SOURCES if name != source]
        left_out = set() if blacklist is None else _names(located(blacklist), source)
        listings = sorted((lists / source).glob("*_final.json"))
        if len(listings) != 1:
            raise InputError(f"{lists / source} has {len(listings)} files *_final.json; it must have the published one")
        for number, item in enumerate(_items(listings[0]), start=1):
            name, caption = item.get("id"), item.get("caption")
            if not isinstance(name, str) or not isinstance(caption, str):
                raise InputError(f"{listings[0]}, entry {number}: no id or caption; it has {', '.join(item)}")
            stem = name.removesuffix(".wav")
            if stem in left_out or f"{stem}.wav" in left_out:
                continue
            path = media.find(stem, others=others)
            if path is not None:
                records.append(ClipRecord(f"{source}/{stem}", path, caption, f"{source}/{stem}"))
        media.report(listings[0])
    if not records:
        raise InputError(f"{lists} has none of the folders {', '.join(sources or WAVCAPS_SOURCES)} with its sounds")
    check_unique(records, lists)
    return records


def _items(path: Path) -> list[dict[str, Any]]:
    """The entries of a list, which is bare or stands under "data"."""
    content = json_of(path)
    items = content.get("data") if isinstance(content, dict) else content
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{path} holds no list of entries, bare or under 'data'")
    return items


def _names(path: Path, source: str) -> set[str]:
    """The names of a blacklist that are meant for a source: its own list, and those that name no source."""
    content = json_of(path)
    lists = content if isinstance(content, dict) else {"": content}
    if not all(isinstance(names, list) for names in lists.values()):
        raise InputError(f"the blacklist {path} holds no list of names, nor lists by source")
    others = [name for name in WAVCAPS_SOURCES if name != source]
    own = [names for key, names in lists.items() if not (key and any(name.startswith(key) for name in others))]
    return {str(name) for names in own for name in names}
